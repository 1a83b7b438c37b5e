//! The address of a Redis, as it is written on the command line.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// Where a Redis is and how to log in there. Shown without its password.
#[derive(Clone)]
pub struct RedisUrl {
    /// At least one.
    servers: Vec<ConnectionInfo>,
    is_cluster: bool,
}

/// Why a text is no address that can be used. One line, without the text itself: it may contain
/// a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not one of the known kinds of address.
    #[error(
        "unknown Redis URL: expected redis://HOST[:PORT][/DB], redis+unix:///PATH or redis+cluster://HOST[:PORT],..."
    )]
    UnknownScheme,
    /// A kind that a later version will know.
    #[error("{0}:// is not supported yet: use redis://, redis+unix:// or redis+cluster://")]
    NotSupported(&'static str),
    /// The right kind, but it cannot be read.
    #[error("invalid Redis URL: {0}")]
    Invalid(String),
}

/// Reads `redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]` or
/// `redis+unix:///PATH[?db=N&user=USER&pass=PASSWORD]` (also `unix://`), or
/// `redis+cluster://[USER[:PASSWORD]@]HOST[:PORT],HOST[:PORT]...`: a Redis Cluster, of which some
/// servers are enough.
///
/// # Errors
/// [`UrlError`], with a message of one line.
pub fn parse_redis_url(text: &str) -> Result<RedisUrl, UrlError> {
    let (scheme, _) = text.split_once("://").ok_or(UrlError::UnknownScheme)?;
    match scheme {
        "redis" | "redis+unix" | "unix" => {}
        "rediss" => return Err(UrlError::NotSupported("rediss")),
        "redis+cluster" => return parse_cluster(&text["redis+cluster://".len()..]),
        "redis+sentinel" => return Err(UrlError::NotSupported("redis+sentinel")),
        "rediss+cluster" => return Err(UrlError::NotSupported("rediss+cluster")),
        "rediss+sentinel" => return Err(UrlError::NotSupported("rediss+sentinel")),
        _ => return Err(UrlError::UnknownScheme),
    }
    let info = text
        .into_connection_info()
        .map_err(|error| UrlError::Invalid(error.to_string()))?;
    let settings = info.redis_settings();
    if settings.db() < 0 {
        return Err(UrlError::Invalid("the database number is negative".into()));
    }
    if matches!(info.addr(), ConnectionAddr::Unix(path) if path.as_os_str() == "/") {
        return Err(UrlError::Invalid("missing path".into()));
    }
    Ok(RedisUrl {
        servers: vec![info],
        is_cluster: false,
    })
}

fn parse_cluster(rest: &str) -> Result<RedisUrl, UrlError> {
    let (login, hosts) = match rest.rsplit_once('@') {
        Some((login, hosts)) => (format!("{login}@"), hosts),
        None => (String::new(), rest),
    };
    let servers = hosts.split(',').map(|host| {
        if host.is_empty() || host.contains(['/', '?']) {
            let why = "a cluster is a list of HOST[:PORT], without a database";
            return Err(UrlError::Invalid(why.into()));
        }
        format!("redis://{login}{host}")
            .into_connection_info()
            .map_err(|error| UrlError::Invalid(error.to_string()))
    });
    Ok(RedisUrl {
        servers: servers.collect::<Result<_, _>>()?,
        is_cluster: true,
    })
}

impl RedisUrl {
    /// Whether it is a Redis Cluster.
    pub fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// The servers that were named, for redis's client: one, or some of a cluster.
    pub fn servers(&self) -> Vec<ConnectionInfo> {
        self.servers.clone()
    }

    /// The first of them.
    pub(crate) fn first(&self) -> ConnectionInfo {
        self.servers[0].clone()
    }
}

impl std::str::FromStr for RedisUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        parse_redis_url(text)
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.servers[0].redis_settings();
        let login = match (settings.username(), settings.password()) {
            (None, None) => String::new(),
            (user, None) => format!("{}@", user.unwrap_or_default()),
            (user, Some(_)) => format!("{}:***@", user.unwrap_or_default()),
        };
        if self.is_cluster {
            let servers = self.servers.iter().map(|server| match server.addr() {
                ConnectionAddr::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
                other => other.to_string(),
            });
            let servers: Vec<String> = servers.collect();
            return write!(f, "redis+cluster://{login}{}", servers.join(","));
        }
        let db = settings.db();
        match self.servers[0].addr() {
            ConnectionAddr::Tcp(host, port) if host.contains(':') => {
                write!(f, "redis://{login}[{host}]:{port}/{db}")
            }
            ConnectionAddr::Tcp(host, port) => write!(f, "redis://{login}{host}:{port}/{db}"),
            ConnectionAddr::Unix(path) => {
                write!(f, "redis+unix://{login}{}", path.display())?;
                if db == 0 {
                    Ok(())
                } else {
                    write!(f, "?db={db}")
                }
            }
            other => write!(f, "{other}"),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_shown_without_its_password() {
        let table = [
            ("redis://localhost", "redis://localhost:6379/0"),
            ("redis://127.0.0.1:7000/3", "redis://127.0.0.1:7000/3"),
            ("redis://[::1]:7000", "redis://[::1]:7000/0"),
            ("redis://:s3cret@h", "redis://:***@h:6379/0"),
            ("redis://ada:s3cret@h/1", "redis://ada:***@h:6379/1"),
            (
                "redis+unix:///run/redis.sock",
                "redis+unix:///run/redis.sock",
            ),
            (
                "unix:///run/redis.sock?db=2",
                "redis+unix:///run/redis.sock?db=2",
            ),
            (
                "redis+cluster://ada:s3cret@h,[::1]:7001",
                "redis+cluster://ada:***@h:6379,[::1]:7001",
            ),
            (
                "redis+unix:///r.sock?pass=s3cret",
                "redis+unix://:***@/r.sock",
            ),
        ];
        for (text, shown) in table {
            let url = parse_redis_url(text).unwrap();
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("s3cret"));
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_in_one_line() {
        let table = [
            ("", "unknown"),
            ("localhost:6379", "unknown"),
            ("http://localhost", "unknown"),
            ("redis://", "invalid"),
            ("redis://h:99999", "invalid"),
            ("redis://h/x", "invalid"),
            ("redis://h/-1", "invalid"),
            ("redis+unix://", "invalid"),
            ("rediss://h", "rediss:// is not supported yet"),
            ("redis+cluster://", "invalid"),
            ("redis+cluster://a,,b", "invalid"),
            ("redis+cluster://a,b/1", "invalid"),
            ("redis+cluster://a:x,b", "invalid"),
            (
                "redis+sentinel://a,b/m/0",
                "redis+sentinel:// is not supported yet",
            ),
        ];
        for (text, expected) in table {
            let error = parse_redis_url(text).unwrap_err().to_string();
            assert!(error.to_lowercase().contains(expected), "{text}: {error}");
            assert!(!error.contains('\n') && error.len() < 200, "{error}");
        }
        let error = parse_redis_url("redis://:s3cret@h/x").unwrap_err();
        assert!(!error.to_string().contains("s3cret"));
    }
}
