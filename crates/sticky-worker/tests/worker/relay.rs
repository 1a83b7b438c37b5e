//! Requests that reach a worker which does not own their session.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixListener, UnixStream};

use crate::client::{
    HttpClient, ask_websocket, ended, polling, read_exactly, read_head, websocket,
};
use crate::fake_engine::FakeEngine;
use crate::stub_master::{Running, StubMaster};
use crate::until;

/// Worker 1 owns the sessions, worker 2 gets the requests.
struct Pair {
    master: StubMaster,
    engine: FakeEngine,
    owner: Running,
    other: Running,
}

impl Pair {
    async fn new() -> Self {
        let master = StubMaster::new().await;
        let engine = FakeEngine::default();
        let owner = master.start(1, engine.clone()).await;
        let other = master.start(2, FakeEngine::default()).await;
        Pair {
            master,
            engine,
            owner,
            other,
        }
    }

    async fn session(&mut self) -> String {
        let stream = self.master.connect(&mut self.owner.member, true).await;
        HttpClient::over(stream).await.open().await
    }

    async fn wrong(&mut self) -> TcpStream {
        self.master.connect(&mut self.other.member, false).await
    }

    async fn wrong_http(&mut self) -> HttpClient {
        HttpClient::over(self.wrong().await).await
    }
}

#[tokio::test]
async fn polls_and_posts_reach_the_owner_from_anywhere() {
    let mut pair = Pair::new().await;
    let sid = pair.session().await;
    let mut client = pair.wrong_http().await;
    for round in 1..=3 {
        let body = vec![b'x'; 300_000 * round];
        assert_eq!(client.post(&polling(&sid), body).await.body, "ok");
        let answer = client.get(&polling(&sid)).await;
        assert_eq!(answer.body, format!("4{}", 300_000 * round));
        assert!(!answer.headers.contains_key("connection"), "{answer:?}");
    }
    assert_eq!(pair.other.member.board.relayed.load(SeqCst), 6);
    assert_eq!(pair.other.member.clients(), 0);
    assert_eq!(pair.owner.member.clients(), 1);
}

#[tokio::test]
async fn a_connection_keeps_its_relay_connection_and_ends_it() {
    let mut pair = Pair::new().await;
    let (one, other) = (pair.session().await, pair.session().await);
    let owner = &pair.owner.member.board;
    until("only sessions are left", || {
        owner.connections.load(SeqCst) == 0
    })
    .await;
    let room = pair.other.member.board.fd_headroom.load(SeqCst);
    let mut client = pair.wrong_http().await;
    for sid in [&one, &other, &one] {
        assert_eq!(client.post(&polling(sid), "4x").await.body, "ok");
        let owner = &pair.owner.member.board;
        assert_eq!(owner.connections.load(SeqCst), 1);
        // One descriptor for the client, one for the owner.
        let room_now = pair.other.member.board.fd_headroom.load(SeqCst);
        assert_eq!(room_now, room - 2);
    }
    drop(client);
    let (owner, other) = (&pair.owner.member.board, &pair.other.member.board);
    until("the owner's end", || owner.connections.load(SeqCst) == 0).await;
    until("the room", || other.fd_headroom.load(SeqCst) == room).await;
}

#[tokio::test]
async fn an_owner_that_ends_between_two_requests_makes_the_session_unknown() {
    let mut pair = Pair::new().await;
    let sid = pair.session().await;
    let mut client = pair.wrong_http().await;
    assert_eq!(client.post(&polling(&sid), "4x").await.body, "ok");
    pair.owner.shut_down();
    pair.owner.exit().await;
    assert!(client.get(&polling(&sid)).await.is_session_unknown());
}

#[tokio::test]
async fn a_relay_connection_that_the_owner_may_be_closing_is_not_used() {
    let master = StubMaster::new().await;
    let engine = FakeEngine::default();
    let mut config = master.config(1);
    config.idle_timeout = Duration::from_millis(300);
    let mut owner = master.start_with(config, engine).await;
    let mut config = master.config(2);
    config.idle_timeout = Duration::from_millis(300);
    let mut other = master.start_with(config, FakeEngine::default()).await;
    let stream = master.connect(&mut owner.member, true).await;
    let sid = HttpClient::over(stream).await.open().await;
    let stream = master.connect(&mut other.member, false).await;
    let mut client = HttpClient::over(stream).await;
    for pause in [0, 100, 200, 280, 140, 150, 160, 290] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if client.is_closed() {
            let stream = master.connect(&mut other.member, false).await;
            client = HttpClient::over(stream).await;
        }
        assert_eq!(client.post(&polling(&sid), "4x").await.body, "ok");
    }
}

#[tokio::test]
async fn a_body_is_passed_on_as_it_comes() {
    let mut pair = Pair::new().await;
    let sid = pair.session().await;
    let mut stream = pair.wrong().await;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\n",
        polling(&sid)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(b"first").await.unwrap();
    let engine = pair.engine.clone();
    until("the first half", || engine.uploaded() == 5).await;
    stream.write_all(b"later").await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(engine.uploaded(), 10);
}

#[tokio::test]
async fn the_owner_knows_whose_request_it_is() {
    let mut pair = Pair::new().await;
    let sid = pair.session().await;
    let stream = pair.wrong().await;
    let mut client = HttpClient::over(stream).await;
    // The fake tells the address on another path only: ask the owner directly,
    // with the preface that a worker sends.
    assert_eq!(client.post(&polling(&sid), "4x").await.body, "ok");
    let relay = pair.master.dir.path().join("worker-1.http");
    let mut unix = UnixStream::connect(&relay).await.unwrap();
    let mut preface = [0u8; 24];
    preface[..6].copy_from_slice(&[0, b's', b'r', 1, 1, 4]);
    preface[6..10].copy_from_slice(&[192, 0, 2, 7]);
    preface[22..].copy_from_slice(&443u16.to_be_bytes());
    unix.write_all(&preface).await.unwrap();
    let answer = HttpClient::over(unix).await.get("/client").await;
    assert_eq!(answer.body, "ClientAddress(Some(192.0.2.7:443)) Https");
    let unix = UnixStream::connect(&relay).await.unwrap();
    let answer = HttpClient::over(unix).await.get("/client").await;
    assert_eq!(answer.body, "ClientAddress(None) Http");
}

#[tokio::test]
async fn an_upgrade_is_joined_both_ways_until_either_end() {
    let mut pair = Pair::new().await;
    for owner_ends in [false, true] {
        let sid = pair.session().await;
        let engine = pair.engine.clone();
        let before = engine.websockets_ended();
        let mut stream = pair.wrong().await;
        let head = ask_websocket(&mut stream, &websocket(Some(&sid))).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let sent: Vec<u8> = (0..400_000u32).map(|number| number as u8).collect();
        let (mut reader, mut writer) = stream.split();
        let (written, read) = tokio::join!(
            writer.write_all(&sent),
            read_exactly(&mut reader, sent.len())
        );
        written.unwrap();
        assert!(read == sent);
        assert_eq!(engine.websockets_ended(), before);
        if owner_ends {
            engine.handles().last().unwrap().ask_to_return();
            ended(&mut stream).await;
        }
        drop(stream);
        until("the owner's end", || {
            engine.websockets_ended() == before + 1
        })
        .await;
        let board = &pair.other.member.board;
        until("the relay's end", || board.connections.load(SeqCst) == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_frees_the_owners_poll() {
    let mut pair = Pair::new().await;
    let sid = pair.session().await;
    let engine = pair.engine.clone();
    let stream = pair.wrong().await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let request = Request::get(polling(&sid)).body(String::new()).unwrap();
    let connection = tokio::spawn(connection);
    let poll = tokio::spawn(async move { sender.send_request(request).await });
    until("the poll", || engine.polls() == 1).await;
    connection.abort();
    poll.abort();
    until("the end of the poll", || engine.polls() == 0).await;
    let mut client = pair.wrong_http().await;
    client.post(&polling(&sid), "4x").await;
    assert_eq!(client.get(&polling(&sid)).await.body, "42");
}

#[tokio::test]
async fn an_owner_that_is_gone_or_never_was_makes_the_session_unknown() {
    let mut pair = Pair::new().await;
    let sid = pair.session().await;
    let engine = pair.engine.clone();
    let mut poller = pair.wrong_http().await;
    let uri = polling(&sid);
    let poll = tokio::spawn(async move { poller.get(&uri).await });
    until("the poll", || engine.polls() == 1).await;
    pair.owner.shut_down();
    // The drain closes the session from within; the poll is answered.
    assert_eq!(poll.await.unwrap().body, "1");
    pair.owner.exit().await;
    let stream = pair.master.connect(&mut pair.other.member, false).await;
    let mut client = HttpClient::over(stream).await;
    assert!(client.get(&polling(&sid)).await.is_session_unknown());
    let mut stream = pair.master.connect(&mut pair.other.member, false).await;
    let head = ask_websocket(&mut stream, &websocket(Some(&sid))).await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
}

#[tokio::test]
async fn an_owner_that_dies_in_the_middle_makes_the_session_unknown() {
    let mut pair = Pair::new().await;
    // A worker 7 that takes the connection and closes it.
    let listener = UnixListener::bind(pair.master.dir.path().join("worker-7.http")).unwrap();
    let dying = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_exactly(&mut stream, 24).await;
        read_head(&mut stream).await;
    });
    let mut client = pair.wrong_http().await;
    let answer = client.get(&polling("AAAHabcdefghijklmnop")).await;
    assert!(answer.is_session_unknown());
    dying.await.unwrap();
}

#[tokio::test]
async fn a_relayed_request_is_never_relayed_again() {
    let pair = Pair::new().await;
    let relay = pair.master.dir.path().join("worker-2.http");
    let mut unix = UnixStream::connect(&relay).await.unwrap();
    let mut preface = [0u8; 24];
    preface[..4].copy_from_slice(&[0, b's', b'r', 1]);
    unix.write_all(&preface).await.unwrap();
    let mut client = HttpClient::over(unix).await;
    let foreign = polling("AAABabcdefghijklmnop");
    assert!(client.get(&foreign).await.is_session_unknown());
    assert_eq!(pair.other.member.board.relayed.load(SeqCst), 0);
    // A proxy in front of the relay socket may land anywhere: one hop.
    let unix = UnixStream::connect(&relay).await.unwrap();
    let answer = HttpClient::over(unix).await.get(&foreign).await;
    assert!(answer.is_session_unknown());
    assert_eq!(pair.other.member.board.relayed.load(SeqCst), 1);
}

#[tokio::test]
async fn a_clients_close_is_not_the_owners() {
    let mut pair = Pair::new().await;
    let sid = pair.session().await;
    let mut stream = pair.wrong().await;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 2\r\n\r\n4x",
        polling(&sid)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(
        head.starts_with(&format!("HTTP/1.1 {} ", StatusCode::OK.as_str())),
        "{head}"
    );
    assert!(head.contains("connection: close"), "{head}");
    tokio::time::timeout(Duration::from_secs(30), ended(&mut stream))
        .await
        .unwrap();
}
