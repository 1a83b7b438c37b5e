//! What the application may know of the client behind a request. Both are in
//! the extensions of every request; applications that keep the request head
//! keep them too.

use std::net::SocketAddr;

/// The client's own address, also when another worker relayed its request.
/// `None` when it came through a Unix socket, and for requests that the worker
/// itself makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub Option<SocketAddr>);

/// What the client spoke before anything in front of the worker decoded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientScheme {
    /// Plain HTTP.
    Http,
    /// HTTP inside TLS.
    Https,
}
