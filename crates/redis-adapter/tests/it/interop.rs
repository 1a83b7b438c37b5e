//! The official JavaScript adapter and emitter on the same Redis, both ways.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis_adapter::{RedisBus, RedisBusOptions};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::client::{Client, Event};
use crate::redis_server::RedisServer;
use crate::server::{Server, Socket};
use crate::soon;

/// The server in Node, with its clients `one` and `two`.
pub(crate) struct Node {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// The socket id of its client `one`.
    pub(crate) one: String,
}

impl Node {
    pub(crate) async fn start(redis: &RedisServer) -> Self {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/js");
        assert!(
            directory
                .join("node_modules/@socket.io/redis-adapter")
                .exists(),
            "the JavaScript side is not installed: run `npm ci` in {}",
            directory.display()
        );
        let mut process = Command::new("node")
            .arg("peer.mjs")
            .arg(redis.socket())
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node is installed (version 20 or newer)");
        let mut node = Self {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()).lines(),
            process,
            one: String::new(),
        };
        let ready = node.line().await;
        node.one = ready["ids"]["one"].as_str().unwrap().to_owned();
        node.join("one", "n1").await;
        node.join("two", "n2").await;
        node
    }

    /// Stops it where it is.
    pub(crate) fn freeze(&self) {
        let pid = i32::try_from(self.process.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    }

    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    pub(crate) async fn line(&mut self) -> Json {
        let line = soon(self.output.next_line()).await.unwrap();
        serde_json::from_str(&line.expect("node runs")).unwrap()
    }

    /// Has one of its calls done; what it returned, as `{result}` or `{error, responses}`.
    pub(crate) async fn try_call(&mut self, call: &str, mut options: Json) -> Json {
        options["call"] = json!(call);
        self.command(options).await;
        self.line().await
    }

    pub(crate) async fn call(&mut self, call: &str, options: Json) -> Json {
        let mut answer = self.try_call(call, options).await;
        assert_eq!(answer.get("error"), None, "{call}");
        answer["result"].take()
    }

    pub(crate) async fn command(&mut self, command: Json) {
        let line = format!("{command}\n");
        self.input.write_all(line.as_bytes()).await.unwrap();
    }

    async fn join(&mut self, client: &str, room: &str) {
        self.command(json!({"join": [room, "common"], "client": client}))
            .await;
        assert_eq!(self.line().await, json!({"joined": [room, "common"]}));
    }

    /// The next event of either client, as `client`, namespace and arguments.
    async fn event(&mut self) -> (String, String, Json) {
        let line = self.line().await;
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        (text("client"), text("nsp"), line["args"].clone())
    }
}

/// Node beside a server of ours with the clients `a`, in the rooms `r1` and
/// `common`, and `b`, in `r2` and `common`.
struct Mixed {
    node: Node,
    server: Server,
    a: (Client, Socket),
    b: (Client, Socket),
    _redis: RedisServer,
}

async fn mixed() -> Mixed {
    let redis = RedisServer::start();
    let node = Node::start(&redis).await;
    let (bus, events) = RedisBus::start(redis.client(), RedisBusOptions::default());
    let mut server = Server::new(Arc::new(bus), events);
    let a = server.member(&["r1", "common"]).await;
    let b = server.member(&["r2", "common"]).await;
    Mixed {
        node,
        server,
        a,
        b,
        _redis: redis,
    }
}

impl Mixed {
    /// Emits in Node, and asserts what our clients got: the same event, or nothing.
    async fn node_emits(&mut self, mut command: Json, on_a: bool, on_b: bool) {
        let defaults = json!({
            "emit": ["e", 1], "via": "server", "nsp": "/", "rooms": [], "except": [],
        });
        for (key, value) in defaults.as_object().unwrap() {
            command
                .as_object_mut()
                .unwrap()
                .entry(key)
                .or_insert(value.clone());
        }
        self.node.command(command.clone()).await;
        let flush = json!({
            "emit": ["flush"], "via": "server", "nsp": "/", "rooms": ["common"], "except": [],
        });
        self.node.command(flush).await;
        for (client, got) in [(&mut self.a.0, on_a), (&mut self.b.0, on_b)] {
            if got {
                let event: Json = serde_json::from_str(&client.json().await).unwrap();
                assert_eq!(event, command["emit"], "{command}");
            }
            // `common` and everyone have different channels, which keep no order
            // between them; Redis sends both on one connection, in order.
            assert_eq!(client.json().await, r#"["flush"]"#, "{command}");
        }
    }

    /// Broadcasts here, and asserts what Node's clients got.
    async fn we_broadcast(&mut self, rooms: &[&str], except: &[&str], on_one: bool, on_two: bool) {
        let sent = self
            .server
            .state
            .broadcast_event("/", rooms, except, "e", &("x", 1.5));
        soon(sent).await.unwrap();
        let flush = self
            .server
            .state
            .broadcast_event("/", &[], &[], "flush", &0);
        soon(flush).await.unwrap();
        let mut expected: Vec<(String, Json)> = Vec::new();
        for (client, got) in [("one", on_one), ("two", on_two)] {
            if got {
                expected.push((client.to_owned(), json!(["e", "x", 1.5])));
            }
            expected.push((client.to_owned(), json!(["flush", 0])));
        }
        let mut received = Vec::new();
        for _ in 0..expected.len() {
            let (client, _, args) = self.node.event().await;
            received.push((client, args));
        }
        // Each client's in order; the two clients side by side in any.
        received.sort_by(|(one, _), (other, _)| one.cmp(other));
        assert_eq!(received, expected, "{rooms:?} except {except:?}");
    }
}

#[tokio::test]
async fn what_node_emits_reaches_our_clients() {
    let mut mixed = mixed().await;
    for via in ["server", "emitter"] {
        mixed.node_emits(json!({"via": via}), true, true).await;
        mixed
            .node_emits(json!({"via": via, "rooms": ["r1"]}), true, false)
            .await;
        mixed
            .node_emits(json!({"via": via, "rooms": ["r1", "r2"]}), true, true)
            .await;
        mixed
            .node_emits(json!({"via": via, "rooms": ["common", "r2"]}), true, true)
            .await;
        mixed
            .node_emits(json!({"via": via, "except": ["r1"]}), false, true)
            .await;
        let case = json!({"via": via, "rooms": ["common"], "except": ["r2"]});
        mixed.node_emits(case, true, false).await;
        mixed
            .node_emits(json!({"via": via, "rooms": ["nobody"]}), false, false)
            .await;
        mixed
            .node_emits(json!({"via": via, "compress": false}), true, true)
            .await;
        let case = json!({"via": via, "emit": ["é🦀", null, [1, -7, 2.5, 4294967296u64, true], {"k": {"deep": []}}]});
        mixed.node_emits(case, true, true).await;
    }
    // A socket of Node's, which leaves itself out.
    mixed.node_emits(json!({"client": "one"}), true, true).await;
    mixed
        .node_emits(json!({"client": "one", "rooms": ["r2"]}), false, true)
        .await;
}

/// Apart from the others, because other packets may overtake a volatile one.
#[tokio::test]
async fn volatile_events_of_node_reach_our_clients() {
    let mut mixed = mixed().await;
    for via in ["server", "emitter"] {
        let command = json!({
            "emit": ["tick", via], "via": via, "nsp": "/", "rooms": [], "except": [], "volatile": true,
        });
        mixed.node.command(command).await;
        let expected = format!(r#"["tick","{via}"]"#);
        assert_eq!(mixed.a.0.json().await, expected);
        assert_eq!(mixed.b.0.json().await, expected);
    }
}

#[tokio::test]
async fn binary_and_dates_of_node_reach_our_clients() {
    let mut mixed = mixed().await;
    for via in ["server", "emitter"] {
        let emit = json!(["bin", {"$hex": "0001ff"}, {"deep": [{"$hex": ""}]}, {"$date": 1_795_311_664_056u64}]);
        let command = json!({
            "emit": emit, "via": via, "nsp": "/", "rooms": ["r1"], "except": [],
        });
        mixed.node.command(command).await;
        let expected = Event {
            namespace: "/".to_owned(),
            json: concat!(
                r#"["bin",{"_placeholder":true,"num":0},{"deep":[{"_placeholder":true,"num":1}]},"#,
                r#""2026-11-22T01:41:04.056Z"]"#
            )
            .to_owned(),
            attachments: vec![vec![0, 1, 255], vec![]],
        };
        assert_eq!(mixed.a.0.event().await, expected);
    }
}

#[tokio::test]
async fn what_we_broadcast_reaches_nodes_clients() {
    let mut mixed = mixed().await;
    let one = mixed.node.one.clone();
    mixed.we_broadcast(&[], &[], true, true).await;
    mixed.we_broadcast(&["n1"], &[], true, false).await;
    mixed
        .we_broadcast(&["n1", "n2", "common"], &[], true, true)
        .await;
    mixed.we_broadcast(&["nobody"], &[], false, false).await;
    mixed.we_broadcast(&[], &["n1"], false, true).await;
    mixed.we_broadcast(&["common"], &["n2"], true, false).await;
    // Node's sockets are rooms by their ids.
    mixed.we_broadcast(&[&one], &[], true, false).await;
    mixed.we_broadcast(&[], &[&one], false, true).await;
}

#[tokio::test]
async fn socketioxides_operators_binary_and_namespaces_reach_nodes_clients() {
    let mut mixed = mixed().await;
    let io = mixed.server.io.clone();
    let data = (
        Bytes::from_static(b"\x00\xff"),
        vec![Bytes::from_static(b"x"); 5],
    );
    io.to("n1").emit("bin", &data).await.unwrap();
    let five = vec![json!({"$hex": "78"}); 5];
    let expected = json!(["bin", {"$hex": "00ff"}, five]);
    assert_eq!(
        mixed.node.event().await,
        ("one".into(), "/".into(), expected)
    );

    io.to("n2")
        .volatile()
        .emit("tick", &"é🦀\u{0}\"")
        .await
        .unwrap();
    let expected = json!(["tick", "é🦀\u{0}\""]);
    assert_eq!(
        mixed.node.event().await,
        ("two".into(), "/".into(), expected)
    );

    mixed
        .a
        .1
        .to("n1")
        .emit("from a", &json!({"z": 1, "a": [null, -1, 1e300]}))
        .await
        .unwrap();
    let expected = json!(["from a", {"z": 1, "a": [null, -1, 1e300]}]);
    assert_eq!(
        mixed.node.event().await,
        ("one".into(), "/".into(), expected)
    );

    let orders = io.of("/orders").unwrap();
    orders.emit("order", &u64::from(u32::MAX)).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let (client, nsp, args) = mixed.node.event().await;
        assert_eq!((&*nsp, args), ("/orders", json!(["order", u32::MAX])));
        clients.push(client);
    }
    clients.sort();
    assert_eq!(clients, ["one", "two"]);
}
