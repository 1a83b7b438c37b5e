//! What clients see of session ids, and what the application sees of clients.

use std::time::Duration;

use common::sid_tag::SidTag;
use common::worker_id::{NodeId, WorkerId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{
    HttpClient, SESSION_UNKNOWN, ask_websocket, ended, polling, read_exactly, read_head, sid,
    websocket,
};
use crate::fake_engine::FakeEngine;
use crate::stub_master::{Running, StubMaster};
use crate::until;

struct Fixture {
    master: StubMaster,
    engine: FakeEngine,
    worker: Running,
}

impl Fixture {
    async fn new() -> Self {
        let master = StubMaster::new().await;
        let engine = FakeEngine::default();
        let worker = master.start(3, engine.clone()).await;
        Fixture {
            master,
            engine,
            worker,
        }
    }

    async fn with(change: impl FnOnce(&mut sticky_worker::WorkerConfig)) -> Self {
        let master = StubMaster::new().await;
        let engine = FakeEngine::default();
        let mut config = master.config(3);
        change(&mut config);
        let worker = master.start_with(config, engine.clone()).await;
        Fixture {
            master,
            engine,
            worker,
        }
    }

    async fn connect(&mut self) -> TcpStream {
        self.master.connect(&mut self.worker.member, true).await
    }

    async fn http(&mut self) -> HttpClient {
        HttpClient::over(self.connect().await).await
    }

    async fn clients(&self, expected: u64) {
        let board = &self.worker.member;
        until("the count of clients", || board.clients() == expected).await;
    }
}

#[tokio::test]
async fn a_handshake_shows_a_tagged_secret_that_stands_for_the_engine_sid() {
    let mut fixture = Fixture::new().await;
    let mut client = fixture.http().await;
    let answer = client.get("/socket.io/?EIO=4&transport=polling").await;
    assert_eq!(
        answer.headers["content-length"],
        answer.body.len().to_string()
    );
    assert!(answer.body.ends_with(r#"","upgrades":["websocket"]}"#));
    let sid = sid(&answer.body).to_owned();
    let tag = SidTag {
        node: NodeId(0),
        worker: WorkerId(3),
    };
    assert_eq!(SidTag::decode(&sid), Some(tag));
    assert!(!answer.body.contains("engine-0"));
    fixture.clients(1).await;

    assert_eq!(client.post(&polling(&sid), "4hello").await.body, "ok");
    assert_eq!(client.get(&polling(&sid)).await.body, "46");
    let second = fixture.http().await.open().await;
    assert_ne!(sid[4..], second[4..]);
    fixture.clients(2).await;
}

#[tokio::test]
async fn what_names_no_session_of_this_worker_is_refused_on_both_transports() {
    let mut fixture = Fixture::new().await;
    let mut client = fixture.http().await;
    let sid = client.open().await;
    let mut changed = sid.clone().into_bytes();
    changed[19] ^= 1;
    let changed = String::from_utf8(changed).unwrap();
    let other_node = format!("AAED{}", &sid[4..]);
    let dead_worker = format!("AAAJ{}", &sid[4..]);
    for wrong in [
        &*changed,
        &sid[4..],
        "engine-0",
        "",
        &other_node,
        &dead_worker,
    ] {
        let answer = client.get(&polling(wrong)).await;
        assert!(answer.is_session_unknown(), "{wrong}: {answer:?}");
        let answer = client.post(&polling(wrong), "4x").await;
        assert!(answer.is_session_unknown(), "{wrong}: {answer:?}");
        let mut stream = fixture.connect().await;
        let head = ask_websocket(&mut stream, &websocket(Some(wrong))).await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        let body = read_exactly(&mut stream, SESSION_UNKNOWN.len()).await;
        assert_eq!(body, SESSION_UNKNOWN.as_bytes());
    }
    assert_eq!(client.post(&polling(&sid), "4x").await.body, "ok");
}

#[tokio::test]
async fn error_codes_are_numbers_and_in_the_order_of_the_javascript_server() {
    let mut fixture = Fixture::new().await;
    let mut client = fixture.http().await;
    for (method, uri, body) in [
        (
            "GET",
            "/socket.io/?EIO=4&transport=flash&sid=x",
            r#"{"code":0,"message":"Transport unknown"}"#,
        ),
        (
            "GET",
            "/socket.io/",
            r#"{"code":0,"message":"Transport unknown"}"#,
        ),
        (
            "GET",
            "/socket.io/?EIO=3&transport=polling&sid=x",
            SESSION_UNKNOWN,
        ),
        (
            "GET",
            "/socket.io/?EIO=4&transport=websocket",
            r#"{"code":3,"message":"Bad request"}"#,
        ),
        (
            "POST",
            "/socket.io/?EIO=4&transport=polling",
            r#"{"code":2,"message":"Bad handshake method"}"#,
        ),
        (
            "GET",
            "/socket.io/?EIO=3&transport=polling",
            r#"{"code":5,"message":"Unsupported protocol version"}"#,
        ),
    ] {
        let answer = client.send(method, uri, "").await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.body),
            (400, body),
            "{method} {uri}"
        );
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(answer.headers["content-length"], body.len().to_string());
    }
    let answer = client.get("/socket.io/socket.io.js").await;
    assert_eq!(answer.body, "nothing at /socket.io/socket.io.js");
}

#[tokio::test]
async fn the_application_is_told_the_clients_address() {
    let mut fixture = Fixture::new().await;
    let stream = fixture.connect().await;
    let address = stream.local_addr().unwrap();
    let answer = HttpClient::over(stream).await.get("/client").await;
    assert_eq!(answer.body, format!("ClientAddress(Some({address})) Http"));
}

#[tokio::test]
async fn a_fresh_websocket_is_a_client_for_as_long_as_it_lives() {
    let mut fixture = Fixture::new().await;
    let mut stream = fixture.connect().await;
    let head = ask_websocket(&mut stream, &websocket(None)).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    fixture.clients(1).await;
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(read_exactly(&mut stream, 5).await, b"hello");
    drop(stream);
    fixture.clients(0).await;
}

#[tokio::test]
async fn an_upgraded_session_ends_with_its_websocket() {
    let mut fixture = Fixture::new().await;
    let mut client = fixture.http().await;
    let sid = client.open().await;
    let mut stream = fixture.connect().await;
    let head = ask_websocket(&mut stream, &websocket(Some(&sid))).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream.write_all(&[b'x'; 19]).await.unwrap();
    read_exactly(&mut stream, 19).await;
    fixture.clients(1).await;
    drop(stream);
    fixture.clients(0).await;
    assert!(client.get(&polling(&sid)).await.is_session_unknown());
}

#[tokio::test]
async fn a_failed_upgrade_leaves_the_session_to_the_application() {
    let mut fixture = Fixture::new().await;
    let mut client = fixture.http().await;
    let sid = client.open().await;
    let mut stream = fixture.connect().await;
    ask_websocket(&mut stream, &websocket(Some(&sid))).await;
    stream.write_all(&[b'x'; 12]).await.unwrap();
    read_exactly(&mut stream, 12).await;
    drop(stream);
    let engine = fixture.engine.clone();
    until("the end of the WebSocket", || {
        engine.websockets_ended() == 1
    })
    .await;
    // The fake forgets a session whose WebSocket ended: the next answer says so.
    fixture.clients(1).await;
    assert!(client.get(&polling(&sid)).await.is_session_unknown());
    fixture.clients(0).await;
}

#[tokio::test]
async fn a_farewell_ends_the_session_whoever_says_it() {
    let mut fixture = Fixture::new().await;
    let mut client = fixture.http().await;
    let by_client = client.open().await;
    let by_server = client.open().await;
    fixture.clients(2).await;
    assert_eq!(client.post(&polling(&by_client), "3").await.body, "ok");
    fixture.clients(2).await;
    assert_eq!(client.post(&polling(&by_client), "1").await.body, "ok");
    fixture.clients(1).await;
    fixture.engine.end("engine-1");
    // The session is gone from the fake's table: it answers unknown.
    assert!(client.get(&polling(&by_server)).await.is_session_unknown());
    fixture.clients(0).await;
    let by_server = client.open().await;
    let mut poller = fixture.http().await;
    let poll = tokio::spawn(async move { poller.get(&polling(&by_server)).await });
    let engine = fixture.engine.clone();
    until("the poll", || engine.polls() == 1).await;
    engine.end("engine-2");
    assert_eq!(poll.await.unwrap().body, "1");
    fixture.clients(0).await;
}

#[tokio::test]
async fn handshakes_beyond_the_bound_push_out_the_oldest_unfinished_one() {
    let mut fixture = Fixture::with(|config| config.unfinished_handshakes = 2).await;
    let mut client = fixture.http().await;
    let finished = client.open().await;
    client.post(&polling(&finished), "4x").await;
    let oldest = client.open().await;
    client.open().await;
    client.open().await;
    let engine = fixture.engine.clone();
    until("the eviction", || engine.closed() == ["engine-1"]).await;
    assert!(client.get(&polling(&oldest)).await.is_session_unknown());
    assert_eq!(client.get(&polling(&finished)).await.body, "42");
    fixture.clients(3).await;
}

#[tokio::test]
async fn a_session_without_requests_expires_and_a_waiting_poll_keeps_it() {
    let mut fixture = Fixture::with(|config| {
        config.ping_interval = Duration::from_millis(600);
        config.ping_timeout = Duration::from_millis(400);
    })
    .await;
    let mut client = fixture.http().await;
    let silent = client.open().await;
    let waiting = client.open().await;
    let mut poller = fixture.http().await;
    let uri = polling(&waiting);
    let poll = tokio::spawn(async move { poller.get(&uri).await });
    let engine = fixture.engine.clone();
    until("the expiry", || engine.closed() == ["engine-0"]).await;
    assert!(client.get(&polling(&silent)).await.is_session_unknown());
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    fixture.clients(1).await;
    client.post(&polling(&waiting), "4x").await;
    assert_eq!(poll.await.unwrap().body, "42");
}

#[tokio::test]
async fn each_kind_of_client_can_be_asked_to_return_alone() {
    let mut fixture = Fixture::new().await;
    let mut fresh = fixture.connect().await;
    ask_websocket(&mut fresh, &websocket(None)).await;
    let mut client = fixture.http().await;
    let polled = client.open().await;
    let upgraded = client.open().await;
    let mut upgrade = fixture.connect().await;
    ask_websocket(&mut upgrade, &websocket(Some(&upgraded))).await;
    upgrade.write_all(&[b'x'; 12]).await.unwrap();
    read_exactly(&mut upgrade, 12).await;
    let other = client.open().await;
    fixture.clients(4).await;

    let handles = fixture.engine.handles();
    handles[0].ask_to_return();
    ended(&mut fresh).await;
    fixture.clients(3).await;
    handles[1].ask_to_return();
    let engine = fixture.engine.clone();
    until("the close packet", || engine.closed() == ["engine-0"]).await;
    fixture.clients(2).await;
    assert!(client.get(&polling(&polled)).await.is_session_unknown());
    handles[2].ask_to_return();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(engine.websockets_ended(), 1, "an upgrade was cut");
    upgrade.write_all(&[b'x'; 7]).await.unwrap();
    ended(&mut upgrade).await;
    fixture.clients(1).await;
    assert_eq!(client.post(&polling(&other), "4x").await.body, "ok");
}

#[tokio::test]
async fn a_websocket_client_that_does_not_read_is_cut() {
    let mut fixture =
        Fixture::with(|config| config.write_deadline = Duration::from_millis(300)).await;
    let mut stream = fixture.connect().await;
    ask_websocket(&mut stream, &websocket(None)).await;
    let (_reader, mut writer) = stream.split();
    // The fake sends everything back until nothing fits any more.
    while writer.write_all(&[0; 65_536]).await.is_ok() {}
    let engine = fixture.engine.clone();
    until("the cut", || engine.websockets_ended() == 1).await;
    let stalled = &fixture.worker.member.board.stalled;
    assert_eq!(stalled.load(std::sync::atomic::Ordering::SeqCst), 1);
    fixture.clients(0).await;
}

#[tokio::test]
async fn a_head_beyond_the_bound_is_431_and_a_large_body_passes() {
    let mut fixture = Fixture::new().await;
    let mut client = fixture.http().await;
    let sid = client.open().await;
    client.post(&polling(&sid), vec![b'x'; 900_000]).await;
    assert_eq!(client.get(&polling(&sid)).await.body, "4900000");
    let mut stream = fixture.connect().await;
    let head = format!(
        "GET / HTTP/1.1\r\nhost: t\r\nx-large: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    let (mut reader, mut writer) = stream.split();
    let (_, head) = tokio::join!(writer.write_all(head.as_bytes()), read_head(&mut reader));
    assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
    let mut rest = Vec::new();
    let _ = reader.read_to_end(&mut rest).await;
}
