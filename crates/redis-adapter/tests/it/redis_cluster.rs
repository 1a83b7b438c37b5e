//! A Redis Cluster of a test's own: three servers without replicas, on free ports of loopback; and
//! both kinds of pub/sub on it.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis_adapter::{Bus, BusEvent, EventReceiver, RedisBus, RedisBusOptions};
use tempfile::TempDir;

use crate::bus_conformance::{self, Buses, channels, message, publish};
use crate::soon;

const SLOTS: u32 = 16_384;

/// Killed when dropped.
struct Node {
    port: u16,
    bus_port: u16,
    process: Child,
    _directory: TempDir,
}

impl Node {
    fn start() -> Self {
        let [port, bus_port] = free_ports();
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--cluster-enabled", "yes"])
            .args(["--cluster-port", &bus_port.to_string()])
            .args(["--save", "", "--dir"])
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server is installed (Debian package redis-server)");
        let mut log = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("eady to accept connections") {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "redis-server ended");
        }
        // It must not fill the pipe and stop.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self {
            port,
            bus_port,
            process,
            _directory: directory,
        }
    }

    async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let mut connection = soon(client.get_multiplexed_async_connection())
            .await
            .unwrap();
        let (name, args) = words.split_first().unwrap();
        let mut command = redis::cmd(name);
        soon(command.arg(args).query_async(&mut connection))
            .await
            .unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Nothing listens on them at this moment.
fn free_ports() -> [u16; 2] {
    let bound = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    bound.map(|listener| listener.local_addr().unwrap().port())
}

struct Cluster {
    nodes: Vec<Node>,
    sharded_prefix: Option<String>,
    ping_interval: Duration,
}

impl Cluster {
    async fn start(sharded_prefix: Option<&str>) -> Self {
        let nodes: Vec<Node> = (0..3).map(|_| Node::start()).collect();
        for (at, node) in (0..).zip(&nodes) {
            let epoch = (at + 1).to_string();
            let () = node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
            let [from, to] = [at, at + 1].map(|part| SLOTS * part / 3);
            let range = [from.to_string(), (to - 1).to_string()];
            let add = ["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]];
            let () = node.command(&add).await;
        }
        for other in &nodes[1..] {
            let (port, bus_port) = (other.port.to_string(), other.bus_port.to_string());
            let meet = ["CLUSTER", "MEET", "127.0.0.1", &port, &bus_port];
            let () = nodes[0].command(&meet).await;
        }
        let cluster = Self {
            nodes,
            sharded_prefix: sharded_prefix.map(str::to_owned),
            ping_interval: RedisBusOptions::default().ping_interval,
        };
        soon(async {
            // No event tells.
            while !cluster.is_whole().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        cluster
    }

    async fn is_whole(&self) -> bool {
        for node in &self.nodes {
            let info: String = node.command(&["CLUSTER", "INFO"]).await;
            let known = info.contains("cluster_known_nodes:3");
            if !(known && info.contains("cluster_state:ok")) {
                return false;
            }
        }
        true
    }

    fn bus(&self) -> (RedisBus, EventReceiver) {
        let servers = self.nodes.iter().map(|node| {
            let url = format!("redis://127.0.0.1:{}", node.port);
            redis::IntoConnectionInfo::into_connection_info(url).unwrap()
        });
        let options = RedisBusOptions {
            subscribe_timeout: crate::LIMIT,
            ping_interval: self.ping_interval,
            backoff_max: Duration::from_millis(100),
            sharded_prefix: self.sharded_prefix.clone(),
            ..RedisBusOptions::default()
        };
        RedisBus::start_cluster(servers.collect(), options).unwrap()
    }
}

impl Buses for Cluster {
    fn process(&self) -> (Arc<dyn Bus>, EventReceiver) {
        let (bus, events) = self.bus();
        (Arc::new(bus), events)
    }
}

#[tokio::test]
async fn a_cluster_conforms() {
    bus_conformance::run(&Cluster::start(None).await).await;
}

#[tokio::test]
async fn sharded_channels_conform_but_for_the_order_between_them() {
    bus_conformance::run_each_channel_for_itself(&Cluster::start(Some("")).await).await;
}

async fn up(bus: &RedisBus) {
    soon(bus.watch_up().wait_for(|up| *up)).await.unwrap();
}

#[tokio::test]
async fn only_channels_with_the_prefix_are_sharded() {
    let cluster = Cluster::start(Some("s")).await;
    let (bus, mut events) = cluster.bus();
    up(&bus).await;
    soon(bus.subscribe(channels(&["sharded", "plain"])))
        .await
        .unwrap();
    let counted = bus.subscribers(channels(&["plain", "sharded", "s"]));
    assert_eq!(soon(counted).await.unwrap(), [1, 1, 0]);
    // What others publish in either way arrives if it is the way of the channel.
    for (command, channel) in [("PUBLISH", "sharded"), ("PUBLISH", "plain")] {
        let _: u64 = cluster.nodes[0]
            .command(&[command, channel, "classic"])
            .await;
    }
    soon(publish(&bus, "sharded", "ours")).await.unwrap();
    let mut heard = vec![soon(events.recv()).await, soon(events.recv()).await];
    heard.sort_by_key(|event| format!("{event:?}"));
    let expected = [message("plain", "classic"), message("sharded", "ours")];
    assert_eq!(heard, expected.map(Some));
    let mut sharded = 0;
    for node in &cluster.nodes {
        let there: Vec<String> = node.command(&["PUBSUB", "SHARDCHANNELS"]).await;
        sharded += there.len();
    }
    assert_eq!(sharded, 1, "on one server, and no other channel is");
}

#[tokio::test]
async fn a_shard_that_does_not_answer_is_a_gap_and_then_heard_again() {
    let mut cluster = Cluster::start(Some("")).await;
    cluster.ping_interval = Duration::from_millis(500);
    let (bus, mut events) = cluster.bus();
    // On all servers there are some.
    let names: Vec<String> = (0..30).map(|n| format!("c{n}")).collect();
    soon(bus.subscribe(names.clone())).await.unwrap();
    up(&bus).await;
    cluster.nodes[1].signal(Signal::SIGSTOP);
    assert_eq!(soon(events.recv()).await, Some(BusEvent::Down));
    assert!(!bus.is_up());
    cluster.nodes[1].signal(Signal::SIGCONT);
    gap_after_downs(&mut events).await;
    soon(is_heard_on_all(&bus, &names, &mut events)).await;
}

/// Publishes until each channel was heard: where a server has just come back, the connection to it
/// may be lost once more, which is another gap.
async fn is_heard_on_all(bus: &RedisBus, names: &[String], events: &mut EventReceiver) {
    let mut missing: HashSet<&str> = names.iter().map(String::as_str).collect();
    while !missing.is_empty() {
        up(bus).await;
        for name in &missing {
            // One that fails is made again.
            let _ = publish(bus, name, "back").await;
        }
        let some = tokio::time::timeout(Duration::from_secs(1), async {
            while !missing.is_empty() {
                if let Some(BusEvent::Message { channel, .. }) = events.recv().await {
                    missing.remove(&*channel);
                }
            }
        });
        let _ = some.await;
    }
}

/// Waits for the gap that ends an outage, which may be told of several times.
async fn gap_after_downs(events: &mut EventReceiver) {
    loop {
        match soon(events.recv()).await {
            Some(BusEvent::Down) => {}
            Some(BusEvent::Gap { .. }) => return,
            other => panic!("no gap: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_slot_that_moves_takes_its_channels_along() {
    let cluster = Cluster::start(Some("")).await;
    let (bus, mut events) = cluster.bus();
    up(&bus).await;
    let channel = "moves";
    soon(bus.subscribe(channels(&[channel]))).await.unwrap();
    let slot: u32 = cluster.nodes[0]
        .command(&["CLUSTER", "KEYSLOT", channel])
        .await;
    let owner = cluster
        .nodes
        .iter()
        .zip(0..)
        .position(|(_, at)| (SLOTS * at / 3..SLOTS * (at + 1) / 3).contains(&slot))
        .unwrap();
    let next = (owner + 1) % 3;
    let id: String = cluster.nodes[next].command(&["CLUSTER", "MYID"]).await;
    let slot = slot.to_string();
    for node in [next, owner, (owner + 2) % 3] {
        let set = ["CLUSTER", "SETSLOT", &slot, "NODE", &id];
        let () = cluster.nodes[node].command(&set).await;
    }
    gap_after_downs(&mut events).await;
    soon(is_heard_on_all(&bus, &[channel.to_owned()], &mut events)).await;
}
