//! A connection to a Redis, be it one server or a cluster of them.
//!
//! To a cluster, what a pipeline has in several slots goes out as one pipeline for each
//! ([`send_by_slot`]). A transaction must be in one slot.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, Value,
};
use redis_adapter::redis_cluster::send_by_slot;

use crate::redis_url::RedisUrl;

/// How often a command is sent again that a cluster's server has refused or lost, in one
/// operation: enough for a slot that moves. Every command of ours may come twice.
const RETRIES: u32 = 3;

/// A connection; clones share it.
#[derive(Clone)]
pub(crate) enum RedisConnection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// A server that has keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Primary {
    /// The only one.
    Only,
    /// One of a cluster.
    At { host: String, port: u16 },
}

impl RedisConnection {
    /// Connects, and bounds by `timeout` the time to connect and to answer.
    pub(crate) async fn open(url: &RedisUrl, timeout: Duration) -> RedisResult<Self> {
        if url.is_cluster() {
            let client = ClusterClient::builder(url.servers())
                .connection_timeout(timeout)
                .response_timeout(timeout)
                .retries(RETRIES)
                .build()?;
            return Ok(Self::Cluster(client.get_async_connection().await?));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        let client = redis::Client::open(url.first())?;
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        Ok(Self::Single(connection.await?))
    }

    /// The servers that have keys, at this moment.
    pub(crate) async fn primaries(&mut self) -> RedisResult<Vec<Primary>> {
        match self {
            Self::Single(_) => Ok(vec![Primary::Only]),
            Self::Cluster(connection) => {
                let mut ask = redis::cmd("CLUSTER");
                ask.arg("SLOTS");
                let random = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
                let slots = connection.route_command(ask, random).await?;
                primaries_of(&slots).ok_or_else(|| unexpected("no list of slots"))
            }
        }
    }

    /// Sends the commands of a pipeline to the server that has `key`, in one piece.
    pub(crate) async fn at_the_server_of(
        &mut self,
        key: &str,
        pipeline: Pipeline,
    ) -> RedisResult<Vec<Value>> {
        let count = pipeline.len();
        match self {
            Self::Single(connection) => connection.req_packed_commands(&pipeline, 0, count).await,
            Self::Cluster(connection) => {
                let route = Route::with_key(key, SlotAddr::Master);
                let server = SingleNodeRoutingInfo::SpecificNode(route);
                connection.route_pipeline(pipeline, 0, count, server).await
            }
        }
    }

    /// Asks one server.
    pub(crate) async fn ask(&mut self, primary: &Primary, command: Cmd) -> RedisResult<Value> {
        match (self, primary) {
            (Self::Cluster(connection), Primary::At { host, port }) => {
                let (host, port) = (host.clone(), *port);
                let at = SingleNodeRoutingInfo::ByAddress { host, port };
                connection
                    .route_command(command, RoutingInfo::SingleNode(at))
                    .await
            }
            (connection, _) => connection.req_packed_command(&command).await,
        }
    }
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => match pipeline.is_transaction() {
                true => connection.req_packed_commands(pipeline, offset, count),
                false => Box::pin(send_by_slot(connection, pipeline)),
            },
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// The servers in an answer to `CLUSTER SLOTS`: for each range of slots its bounds, its primary
/// and its replicas, each of these with host and port first.
fn primaries_of(slots: &Value) -> Option<Vec<Primary>> {
    let mut primaries = Vec::new();
    for range in array(slots)? {
        let [host, port, ..] = array(array(range)?.get(2)?)? else {
            return None;
        };
        let primary = Primary::At {
            host: redis::from_redis_value_ref(host).ok()?,
            port: redis::from_redis_value_ref(port).ok()?,
        };
        if !primaries.contains(&primary) {
            primaries.push(primary);
        }
    }
    Some(primaries)
}

fn array(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

fn unexpected(what: &'static str) -> RedisError {
    (ErrorKind::UnexpectedReturnType, what).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_primary_is_found_once() {
        let server = |host: &str, port: i64| {
            let host = Value::BulkString(host.as_bytes().to_vec());
            Value::Array(vec![host, Value::Int(port), Value::Nil])
        };
        let range = |from: i64, to: i64, primary: Value| {
            let replica = server("h", 9);
            Value::Array(vec![Value::Int(from), Value::Int(to), primary, replica])
        };
        let slots = Value::Array(vec![
            range(0, 1, server("h", 1)),
            range(2, 3, server("h", 2)),
            range(4, 5, server("h", 1)),
        ]);
        let at = |port| Primary::At {
            host: "h".to_owned(),
            port,
        };
        assert_eq!(primaries_of(&slots), Some(vec![at(1), at(2)]));
        assert_eq!(primaries_of(&Value::Nil), None);
        let cut = Value::Array(vec![Value::Array(vec![Value::Int(0)])]);
        assert_eq!(primaries_of(&cut), None);
    }
}
