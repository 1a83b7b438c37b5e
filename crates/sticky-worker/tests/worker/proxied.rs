//! What is said of clients beside their own connections: forwarded addresses, the affinity cookie,
//! the counting by address, and how long a connection may be used.

use std::net::IpAddr;
use std::sync::atomic::Ordering::SeqCst;

use common::handoff::{Packet, SocketInfo, Speaks};
use http::header::{CONNECTION, SET_COOKIE};
use sticky_worker::TrustedProxies;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::client::{HttpClient, ask_websocket, polling, read_head, websocket};
use crate::fake_engine::FakeEngine;
use crate::stub_master::{Member, Running, StubMaster};
use crate::until;

async fn client_of(master: &StubMaster, running: &mut Running, headers: &str) -> String {
    let mut stream = master.connect(&mut running.member, false).await;
    let head = format!("GET /client HTTP/1.1\r\nhost: t\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    read_head(&mut stream).await;
    let mut body = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut body)
        .await
        .unwrap();
    body
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is_for_each_request() {
    let master = StubMaster::new().await;
    let mut config = master.config(1);
    config.trusted_proxies = TrustedProxies::new(["127.0.0.1".parse().unwrap()]);
    let mut running = master.start_with(config, FakeEngine::default()).await;
    let said = "x-forwarded-for: 6.6.6.6, 203.0.113.9\r\nx-forwarded-proto: https\r\n";
    let client = client_of(&master, &mut running, said).await;
    assert_eq!(client, "ClientAddress(Some(203.0.113.9:0)) Https");
    let said = "forwarded: for=203.0.113.9;proto=https\r\n";
    let client = client_of(&master, &mut running, said).await;
    assert_eq!(client, "ClientAddress(Some(203.0.113.9:0)) Https");
    let client = client_of(&master, &mut running, "").await;
    assert!(
        client.starts_with("ClientAddress(Some(127.0.0.1:"),
        "{client}"
    );
    // Nobody is trusted who was not named.
    let config = master.config(2);
    let mut strict = master.start_with(config, FakeEngine::default()).await;
    let said = "x-forwarded-for: 203.0.113.9\r\nx-forwarded-proto: https\r\n";
    let client = client_of(&master, &mut strict, said).await;
    assert!(
        client.starts_with("ClientAddress(Some(127.0.0.1:") && client.ends_with(" Http"),
        "{client}"
    );
}

#[tokio::test]
async fn a_client_that_opens_a_session_is_told_where_it_is_once() {
    let master = StubMaster::new().await;
    let mut config = master.config(2);
    config.affinity_cookie = Some("io".to_owned());
    let mut running = master.start_with(config, FakeEngine::default()).await;
    let stream = master.connect(&mut running.member, true).await;
    let mut client = HttpClient::over(stream).await;
    let opened = client.get("/socket.io/?EIO=4&transport=polling").await;
    let cookie = "io=AAAC; Path=/; HttpOnly; SameSite=Lax";
    assert_eq!(opened.headers[SET_COOKIE], cookie);
    let sid = crate::client::sid(&opened.body).to_owned();
    let posted = client.post(&polling(&sid), "4x").await;
    assert!(!posted.headers.contains_key(SET_COOKIE));
    let mut stream = master.connect(&mut running.member, true).await;
    let head = ask_websocket(&mut stream, &websocket(None)).await;
    assert!(
        head.contains(&format!("set-cookie: {cookie}\r\n")),
        "{head}"
    );
    // Over TLS it must not travel in the clear.
    let relay = master.dir.path().join("worker-2.http");
    let mut unix = tokio::net::UnixStream::connect(&relay).await.unwrap();
    let mut preface = [0u8; 24];
    preface[..5].copy_from_slice(&[0, b's', b'r', 1, 1]);
    unix.write_all(&preface).await.unwrap();
    let opened = HttpClient::over(unix)
        .await
        .get("/socket.io/?EIO=4&transport=polling")
        .await;
    assert_eq!(opened.headers[SET_COOKIE], format!("{cookie}; Secure"));
    // Who has it already needs no other.
    let mut stream = master.connect(&mut running.member, true).await;
    let head = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: t\r\ncookie: a=b; io=AAAC\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(
        head.starts_with("HTTP/1.1 200") && !head.contains("set-cookie"),
        "{head}"
    );
}

#[tokio::test]
async fn a_connection_ends_with_its_last_request() {
    let master = StubMaster::new().await;
    let mut config = master.config(1);
    config.requests_per_connection = 3;
    let mut running = master.start_with(config, FakeEngine::default()).await;
    let stream = master.connect(&mut running.member, true).await;
    let mut client = HttpClient::over(stream).await;
    let sid = client.open().await;
    let second = client.post(&polling(&sid), "4x").await;
    assert!(!second.headers.contains_key(CONNECTION));
    let third = client.get(&polling(&sid)).await;
    assert_eq!(third.headers[CONNECTION], "close");
    client.closed().await;
    let exceeded = &running.member.board.requests_exceeded;
    assert_eq!(exceeded.load(SeqCst), 1);
    // The session goes on.
    let stream = master.connect(&mut running.member, false).await;
    let mut client = HttpClient::over(stream).await;
    assert_eq!(client.post(&polling(&sid), "4x").await.body, "ok");
}

/// What a master is told, sorted, until it is as many as expected.
async fn told(member: &Member, present: bool, count: usize) -> Vec<IpAddr> {
    let mut all = Vec::new();
    while all.len() < count {
        match member.told().await {
            Packet::Present(addresses) if present => all.extend(addresses),
            Packet::Closed(addresses) if !present => all.extend(addresses),
            Packet::Ready(_) => {}
            other => panic!("{other:?}"),
        }
    }
    all.sort();
    all
}

#[tokio::test]
async fn counted_connections_are_told_when_they_close_and_to_the_next_master() {
    let mut master = StubMaster::new().await;
    let Running { mut member, .. } = master.start(1, FakeEngine::default()).await;
    let address = |last: u8| IpAddr::from([203, 0, 113, last]);
    let info = |last| SocketInfo {
        peer: None,
        counted: Some(address(last)),
        speaks: Speaks::Http,
        balanced: false,
        known_us: 0,
    };
    let mut streams: Vec<TcpStream> = Vec::new();
    for number in 0..100 {
        let last = number % 4;
        streams.push(master.connect_as(&mut member, info(last)).await);
    }
    let board = &member.board;
    until("all are there", || board.connections.load(SeqCst) == 100).await;
    // 25 of each; those of the first two leave.
    let (leave, mut stay): (Vec<_>, Vec<_>) = streams
        .into_iter()
        .enumerate()
        .partition(|(number, _)| number % 4 < 2);
    drop(leave);
    let closed = told(&member, false, 50).await;
    assert_eq!(closed[..25], [address(0); 25]);
    assert_eq!(closed[25..], [address(1); 25]);
    assert_eq!(member.board.ended.load(SeqCst), 50);
    // A new master learns of the others, and not of what closed without one.
    master.die();
    member.die();
    drop(stay.pop());
    master.listen();
    let member = master.admit(Packet::Welcome).await;
    let present = told(&member, true, 49).await;
    assert_eq!(present[..25], [address(2); 25]);
    assert_eq!(present[25..], [address(3); 24]);
    drop(stay);
    let closed = told(&member, false, 49).await;
    assert_eq!(closed, present);
}
