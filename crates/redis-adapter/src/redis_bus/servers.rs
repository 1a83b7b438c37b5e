//! Which Redis a connection is made to, and how many are subscribed in all.

use std::collections::HashMap;

use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo};
use redis::{Client, ConnectionInfo, RedisResult};
use tokio::sync::OnceCell;

use super::RedisBusOptions;

/// The servers that a connection may be made to: one, or some of a cluster, any of which will do.
/// In a cluster all hear what is published on one.
#[derive(Debug, Clone)]
pub(super) struct Servers {
    clients: Vec<Client>,
    next: usize,
}

impl Servers {
    pub(super) fn one(client: Client) -> Self {
        let clients = vec![client];
        Self { clients, next: 0 }
    }

    /// `servers` must not be empty. The processes of a cluster begin with different ones.
    pub(super) fn cluster(servers: Vec<ConnectionInfo>) -> RedisResult<Self> {
        let clients = servers.into_iter().map(Client::open);
        let clients: Vec<Client> = clients.collect::<RedisResult<_>>()?;
        let next = std::process::id() as usize % clients.len().max(1);
        Ok(Self { clients, next })
    }

    /// The one to try next: each in its turn.
    pub(super) fn next(&mut self) -> Client {
        let client = self.clients[self.next % self.clients.len()].clone();
        self.next = self.next.wrapping_add(1);
        client
    }
}

/// Counts subscribers in a cluster, where each server knows only of its own.
pub(super) struct Census {
    client: ClusterClient,
    connection: OnceCell<ClusterConnection>,
}

impl Census {
    pub(super) fn new(
        servers: Vec<ConnectionInfo>,
        options: &RedisBusOptions,
    ) -> RedisResult<Self> {
        let client = ClusterClient::builder(servers)
            .connection_timeout(options.connect_timeout)
            .response_timeout(options.publish_timeout)
            .build()?;
        Ok(Self {
            client,
            connection: OnceCell::new(),
        })
    }

    /// Of channels of which `sharded` says whether they are on one server each.
    pub(super) async fn of_both(
        &self,
        channels: &[String],
        sharded: &[bool],
    ) -> RedisResult<Vec<u64>> {
        let mut counts = vec![0; channels.len()];
        for kind in [false, true] {
            let places = (0..channels.len()).filter(|at| sharded[*at] == kind);
            let places: Vec<usize> = places.collect();
            if !places.is_empty() {
                let asked: Vec<String> = places.iter().map(|at| channels[*at].clone()).collect();
                let counted = self.subscribers(&asked, kind).await?;
                for (at, count) in places.into_iter().zip(counted) {
                    counts[at] = count;
                }
            }
        }
        Ok(counts)
    }

    /// `sharded`: of channels that are on one server each; all must be such, or none.
    async fn subscribers(&self, channels: &[String], sharded: bool) -> RedisResult<Vec<u64>> {
        let connection = self
            .connection
            .get_or_try_init(|| self.client.get_async_connection())
            .await?;
        let mut ask = redis::cmd("PUBSUB");
        ask.arg(if sharded { "SHARDNUMSUB" } else { "NUMSUB" })
            .arg(channels);
        let sum = Some(ResponsePolicy::CombineMaps);
        let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllNodes, sum));
        let counts = connection.clone().route_command(ask, all).await?;
        let counts: HashMap<Vec<u8>, u64> = redis::from_redis_value(counts)?;
        let count = |channel: &String| counts.get(channel.as_bytes()).copied().unwrap_or_default();
        Ok(channels.iter().map(count).collect())
    }
}
