//! Sharded pub/sub of a Redis Cluster: a channel lives on the server that has its slot, and a message
//! costs that server alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::Slot;
use redis::{ConnectionInfo, ProtocolVersion, PushInfo, PushKind, RedisResult, Value};
use tokio::sync::mpsc;

use super::subscriptions::Batch;

/// How often a command is sent again that a server has refused or lost: enough for a slot that moves.
const RETRIES: u32 = 3;

/// How to connect to the cluster.
#[derive(Clone)]
pub(super) struct Shards {
    servers: Vec<ConnectionInfo>,
    timeout: Duration,
}

impl Shards {
    pub(super) fn new(servers: Vec<ConnectionInfo>, timeout: Duration) -> Self {
        Self { servers, timeout }
    }

    /// A connection to publish on.
    pub(super) async fn mouth(&self) -> RedisResult<ClusterConnection> {
        let client = ClusterClient::builder(self.servers.clone())
            .connection_timeout(self.timeout)
            .response_timeout(self.timeout)
            .retries(RETRIES)
            .build()?;
        client.get_async_connection().await
    }

    /// A connection to listen on.
    pub(super) async fn ear(&self) -> RedisResult<(ShardedEar, Heard)> {
        // Taken whatever else the subscriber waits for, so nothing adds up.
        let (pushes, heard) = mpsc::unbounded_channel();
        let client = ClusterClient::builder(self.servers.clone())
            .connection_timeout(self.timeout)
            .response_timeout(self.timeout)
            .retries(RETRIES)
            .use_protocol(ProtocolVersion::RESP3)
            .push_sender(pushes)
            .build()?;
        let connection = client.get_async_connection().await?;
        Ok((ShardedEar(connection), Heard(heard)))
    }
}

/// Says what is to be heard.
#[derive(Clone)]
pub(super) struct ShardedEar(ClusterConnection);

impl ShardedEar {
    /// Does a step towards what is wanted, or a PING of all servers when there is none.
    pub(super) async fn ask(mut self, batch: Batch) -> RedisResult<()> {
        if batch == Batch::default() {
            return redis::cmd("PING").exec_async(&mut self.0).await;
        }
        // One command may not name channels of two slots.
        let subscribed = by_slot(&batch.subscribe).into_values().map(|channels| {
            let mut connection = self.0.clone();
            async move { connection.ssubscribe(channels).await }
        });
        let unsubscribed = by_slot(&batch.unsubscribe).into_values().map(|channels| {
            let mut connection = self.0.clone();
            async move { connection.sunsubscribe(channels).await }
        });
        try_join_all(subscribed).await?;
        try_join_all(unsubscribed).await?;
        Ok(())
    }
}

fn by_slot(channels: &[Arc<str>]) -> HashMap<Slot, Vec<&str>> {
    let mut slots: HashMap<Slot, Vec<&str>> = HashMap::new();
    for channel in channels {
        slots
            .entry(Slot::for_key(channel.as_bytes()))
            .or_default()
            .push(channel);
    }
    slots
}

/// What is heard.
pub(super) struct Heard(mpsc::UnboundedReceiver<PushInfo>);

/// Something that a server pushed.
pub(super) enum Pushed {
    Message {
        channel: String,
        payload: Bytes,
    },
    /// A channel is not heard any more. Nobody may have asked for that: its slot has moved.
    Ended {
        channel: String,
    },
    /// A server's connection was lost, and with it some channels.
    Lost,
}

impl Heard {
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Pushed {
        loop {
            let Some(PushInfo { kind, data }) = self.0.recv().await else {
                return Pushed::Lost;
            };
            let mut data = data.into_iter().map(|value| match value {
                Value::BulkString(bytes) => bytes,
                _ => Vec::new(),
            });
            let channel = data.next().map(String::from_utf8);
            match (kind, channel, data.next()) {
                (PushKind::SMessage, Some(Ok(channel)), Some(payload)) => {
                    let payload = payload.into();
                    return Pushed::Message { channel, payload };
                }
                (PushKind::SUnsubscribe, Some(Ok(channel)), _) => return Pushed::Ended { channel },
                (PushKind::Disconnection, ..) => return Pushed::Lost,
                _ => {}
            }
        }
    }
}
