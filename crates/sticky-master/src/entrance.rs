//! How the connections of a listener may begin, and what is read off them
//! before they are passed on. Settings only.

use common::forwarded::TrustedProxies;
use common::handoff::Speaks;

/// What a listener's connections may begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entrance {
    /// What clients speak here; none where only other nodes' workers come.
    pub clients: Option<Speaks>,
    /// Clients' connections begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Connections of other nodes' workers may come in here.
    pub relay: bool,
}

/// How a first request is read; the same for all listeners.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// Most bytes of a request head.
    pub head_max: usize,
    /// Who is believed what it says of the client's address.
    pub trusted_proxies: TrustedProxies,
    /// The cookie that names the worker of a client without a session id.
    pub affinity_cookie: Option<String>,
}
