//! The values of options that are more than text or a number.

// Most of what follows are help texts, which the terminal shows as they are.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use chat_worker::chat::workspace::WorkspacePolicy;
use chat_worker::store::sqlite::Durability;
use clap::ValueEnum;
use sticky_master::Balance;

/// The names of the balancing methods with what they do, for the help.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum BalanceMethod {
    /// The worker with the fewest clients
    LeastConnection,
    /// Each worker in turn
    RoundRobin,
    /// Any worker
    Random,
    /// Always the same worker for one client address
    ClientHash,
}

impl From<BalanceMethod> for Balance {
    fn from(method: BalanceMethod) -> Balance {
        match method {
            BalanceMethod::LeastConnection => Balance::LeastConnection,
            BalanceMethod::RoundRobin => Balance::RoundRobin,
            BalanceMethod::Random => Balance::Random,
            BalanceMethod::ClientHash => Balance::ClientHash,
        }
    }
}

/// What survives a power cut, with what it means, for the help.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DurabilityLevel {
    /// About the last second of them; the crash of any process takes nothing
    Normal,
    /// None: each is on the disk before it is acknowledged
    Full,
}

impl From<DurabilityLevel> for Durability {
    fn from(level: DurabilityLevel) -> Durability {
        match level {
            DurabilityLevel::Normal => Durability::Normal,
            DurabilityLevel::Full => Durability::Full,
        }
    }
}

/// Who may subscribe to a workspace's rooms, for the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WorkspacePolicyChoice {
    /// Everyone who is logged in
    Open,
    /// With Redis: the user ids in the set cc:workspace:<workspaceId>
    RedisSet,
}

impl From<WorkspacePolicyChoice> for WorkspacePolicy {
    fn from(choice: WorkspacePolicyChoice) -> WorkspacePolicy {
        match choice {
            WorkspacePolicyChoice::Open => WorkspacePolicy::Open,
            WorkspacePolicyChoice::RedisSet => WorkspacePolicy::RedisSet,
        }
    }
}

/// The beginning of channel names: anything but nothing.
pub(crate) fn adapter_key(text: &str) -> Result<String, String> {
    match text.len() {
        1..=200 => Ok(text.to_owned()),
        _ => Err("it must have 1 to 200 bytes".to_owned()),
    }
}

/// What can stand in a header behind `Bearer` (RFC 6750, 2.1).
pub(crate) fn publish_token(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    if text.is_empty() || !text.chars().all(fits) {
        return Err("a token is made of A-Z a-z 0-9 - . _ ~ + / =".to_owned());
    }
    Ok(text.to_owned())
}

/// A token, as cookies' names are.
pub(crate) fn cookie_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if text.is_empty() || text.len() > 64 || !text.chars().all(fits) {
        return Err("not a cookie's name".to_owned());
    }
    Ok(text.to_owned())
}

/// An address that others can call: no port 0, no unspecified address. A name is
/// looked up once.
pub(crate) fn dialable(text: &str, default_port: Option<u16>) -> Result<SocketAddr, String> {
    let wrong = |why: String| format!("--advertise {text}: {why}");
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let found = match (text.to_socket_addrs(), default_port) {
        (Err(_), Some(port)) => (bare, port).to_socket_addrs(),
        (found, _) => found,
    };
    let mut found = found.map_err(|error| wrong(error.to_string()))?;
    let address = found
        .next()
        .ok_or_else(|| wrong("this name has no address".to_owned()))?;
    if address.port() == 0 || address.ip().is_unspecified() {
        let why = "others have to be able to call it: no port 0, not 0.0.0.0";
        return Err(wrong(why.to_owned()));
    }
    Ok(address)
}

/// A positive time of at least a second, which is what Redis counts in here.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(1) {
        return Err("must be at least 1s".to_owned());
    }
    if time > Duration::from_secs(100 * 365 * 24 * 3600) {
        return Err("must be at most 100 years".to_owned());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balancing_methods_have_the_library_s_names() {
        for method in BalanceMethod::value_variants() {
            let name = method.to_possible_value().unwrap();
            assert_eq!(Balance::from(*method).to_string(), name.get_name());
        }
    }
}
