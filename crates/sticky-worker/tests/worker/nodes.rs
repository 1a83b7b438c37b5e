//! Relay between two nodes, over TCP.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::handoff::{SocketInfo, Speaks};
use common::relay_hello::{self, RelayHello};
use common::sid_tag::SidTag;
use common::worker_id::{NodeId, WorkerId};
use sticky_worker::{ClusterSecret, WorkerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::client::{HttpClient, ask_websocket, ended, polling, read_exactly, websocket};
use crate::fake_engine::FakeEngine;
use crate::stub_master::{Running, StubMaster};
use crate::{LONG, until};

const RELAY: SocketInfo = SocketInfo {
    peer: None,
    counted: None,
    speaks: Speaks::Relay,
    balanced: false,
    known_us: 0,
};

/// Node 7 has the sessions, node 0 gets the requests.
struct Nodes {
    near: StubMaster,
    far: StubMaster,
    other: Running,
    owner: Running,
    engine: FakeEngine,
    /// Where node 7 is called: the test is its master.
    listener: TcpListener,
}

fn with_secret(config: &mut WorkerConfig, secret: &str) {
    config.cluster_secret = Some(ClusterSecret::new(secret));
    config.greeting_time = Duration::from_millis(300);
}

impl Nodes {
    async fn new(near_secret: &str, far_secret: &str) -> Nodes {
        let (near, far) = (StubMaster::new().await, StubMaster::new().await);
        let engine = FakeEngine::default();
        let mut config = near.config(1);
        with_secret(&mut config, near_secret);
        let other = near.start_with(config, FakeEngine::default()).await;
        let mut config = far.config(2);
        config.node = NodeId(7);
        with_secret(&mut config, far_secret);
        let owner = far.start_with(config, engine.clone()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nodes = Nodes {
            near,
            far,
            other,
            owner,
            engine,
            listener,
        };
        nodes.know(Some(nodes.listener.local_addr().unwrap()));
        nodes
    }

    /// Tells node 0 where node 7 is.
    fn know(&self, address: Option<SocketAddr>) {
        let nodes = address.map(|address| (NodeId(7), address));
        let nodes: HashMap<_, _> = nodes.into_iter().collect();
        self.other.handle.set_nodes(nodes);
    }

    async fn session(&mut self) -> String {
        let stream = self.far.connect(&mut self.owner.member, true).await;
        HttpClient::over(stream).await.open().await
    }

    async fn wrong(&mut self) -> TcpStream {
        self.near.connect(&mut self.other.member, false).await
    }

    /// Passes the next relayed connection to its owner.
    async fn pass_on(&mut self) {
        let accepted = timeout(LONG, self.listener.accept()).await.unwrap();
        let (socket, _) = accepted.unwrap();
        self.owner.member.hand_over_as(&[socket], RELAY).await;
    }
}

#[tokio::test]
async fn polls_posts_and_upgrades_reach_the_owner_on_another_node() {
    let secret = "a secret of some length";
    let mut nodes = Nodes::new(secret, secret).await;
    let sid = nodes.session().await;
    assert!(sid.starts_with("AAcC"), "{sid}");
    let mut client = HttpClient::over(nodes.wrong().await).await;
    let uri = polling(&sid);
    let (posted, ()) = tokio::join!(client.post(&uri, vec![b'x'; 900_000]), nodes.pass_on());
    assert_eq!(posted.body, "ok");
    // Over the same relay connection.
    assert_eq!(client.get(&uri).await.body, "4900000");
    let mut stream = nodes.wrong().await;
    let uri = websocket(Some(&sid));
    let (head, ()) = tokio::join!(ask_websocket(&mut stream, &uri), nodes.pass_on());
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream.write_all(b"there and back").await.unwrap();
    assert_eq!(read_exactly(&mut stream, 14).await, b"there and back");
    assert_eq!(nodes.other.member.board.relayed.load(SeqCst), 3);
    // The node is not there any more: what it relayed ends.
    nodes.know(None);
    ended(&mut stream).await;
    let engine = nodes.engine.clone();
    until("the owner's end", || engine.websockets_ended() == 1).await;
}

#[tokio::test]
async fn a_node_that_goes_while_a_poll_waits_makes_the_session_unknown() {
    let secret = "a secret of some length";
    let mut nodes = Nodes::new(secret, secret).await;
    let sid = nodes.session().await;
    let mut client = HttpClient::over(nodes.wrong().await).await;
    let uri = polling(&sid);
    let gone = async {
        nodes.pass_on().await;
        let engine = nodes.engine.clone();
        until("the poll", || engine.polls() == 1).await;
        nodes.know(None);
    };
    let (answer, ()) = tokio::join!(client.get(&uri), gone);
    assert!(answer.is_session_unknown());
    let engine = nodes.engine.clone();
    until("the end of the poll", || engine.polls() == 0).await;
}

#[tokio::test]
async fn a_node_nobody_knows_is_not_called() {
    let secret = "a secret of some length";
    let mut nodes = Nodes::new(secret, secret).await;
    let sid = nodes.session().await;
    nodes.know(None);
    let mut client = HttpClient::over(nodes.wrong().await).await;
    assert!(client.get(&polling(&sid)).await.is_session_unknown());
    // Nor one that cannot be reached.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    nodes.know(Some(closed.local_addr().unwrap()));
    drop(closed);
    assert!(client.get(&polling(&sid)).await.is_session_unknown());
    assert_eq!(nodes.other.member.board.relayed.load(SeqCst), 0);
}

#[tokio::test]
async fn with_another_secret_nothing_is_relayed() {
    let mut nodes = Nodes::new("a secret of some length", "another secret of a length").await;
    let sid = nodes.session().await;
    let mut client = HttpClient::over(nodes.wrong().await).await;
    let uri = polling(&sid);
    let (answer, ()) = tokio::join!(client.get(&uri), nodes.pass_on());
    assert!(answer.is_session_unknown());
    let board = &nodes.owner.member.board;
    until("the stranger is counted", || {
        board.strangers.load(SeqCst) == 1
    })
    .await;
    until("it is gone", || board.connections.load(SeqCst) <= 1).await;
}

#[tokio::test]
async fn who_says_nothing_or_somebody_elses_words_is_closed() {
    let secret = "a secret of some length";
    let mut nodes = Nodes::new(secret, secret).await;
    let owner = SidTag {
        node: NodeId(7),
        worker: WorkerId(2),
    };
    let nonce = *b"0123456789abcdef";
    let hello = RelayHello { owner, nonce }.encode();
    let elsewhere = SidTag {
        worker: WorkerId(3),
        ..owner
    };
    let elsewhere = RelayHello {
        owner: elsewhere,
        nonce,
    }
    .encode();
    let mut made_up = hello.to_vec();
    made_up.extend([7; 56]);
    let said: [&[u8]; 5] = [b"", &hello[..9], &hello, &elsewhere, &made_up];
    for said in said {
        let member = &mut nodes.owner.member;
        let mut stream = nodes.far.connect_as(member, RELAY).await;
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(LONG, stream.read_to_end(&mut answer))
            .await
            .unwrap();
        // The owner's own proof at most, and only for who asks for it.
        let proves = said.len() >= relay_hello::LENGTH && said != elsewhere;
        assert_eq!(answer.len(), if proves { 48 } else { 0 });
    }
    let board = &nodes.owner.member.board;
    until("all are counted", || board.strangers.load(SeqCst) == 5).await;
}

#[tokio::test]
async fn without_a_secret_of_its_own_a_worker_takes_no_relays() {
    let master = StubMaster::new().await;
    let mut running = master.start(1, FakeEngine::default()).await;
    let mut stream = master.connect_as(&mut running.member, RELAY).await;
    let _ = stream.write_all(&[0; 24]).await;
    ended(&mut stream).await;
}
