//! A worker that leaves: each kind of client, and each reason.

use std::time::Duration;

use common::handoff::Packet;
use common::runtime_dir::RuntimeDir;
use common::worker_id::WorkerId;
use sticky_worker::Exit;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::client::{
    HttpClient, ask_websocket, ended, polling, read_exactly, read_head, websocket,
};
use crate::fake_engine::FakeEngine;
use crate::stub_master::{Running, StubMaster};
use crate::until;

/// A polling client in the middle of its upgrade: the end of its WebSocket that the worker waits for.
async fn in_an_upgrade(master: &StubMaster, worker: &mut Running) -> TcpStream {
    let mut websocket_end = master.connect(&mut worker.member, false).await;
    let sid = HttpClient::over(master.connect(&mut worker.member, true).await)
        .await
        .open()
        .await;
    ask_websocket(&mut websocket_end, &websocket(Some(&sid))).await;
    websocket_end
}

#[tokio::test]
async fn every_kind_of_client_is_asked_to_return_and_the_worker_ends_with_the_last() {
    let master = StubMaster::new().await;
    let engine = FakeEngine::default();
    let mut worker = master.start(0, engine.clone()).await;
    let member = &mut worker.member;

    let mut fresh = master.connect(member, true).await;
    ask_websocket(&mut fresh, &websocket(None)).await;
    let mut idle = HttpClient::over(master.connect(member, true).await).await;
    let between_polls = idle.open().await;
    let polling_now = idle.open().await;
    let upgraded = idle.open().await;
    let mut poller = HttpClient::over(master.connect(member, false).await).await;
    let uri = polling(&polling_now);
    let poll = tokio::spawn(async move { (poller.get(&uri).await, poller) });
    let mut upgrading = master.connect(member, false).await;
    ask_websocket(&mut upgrading, &websocket(Some(&upgraded))).await;
    upgrading.write_all(&[b'x'; 12]).await.unwrap();
    read_exactly(&mut upgrading, 12).await;
    until("the poll", || engine.polls() == 1).await;

    worker.shut_down();
    assert_eq!(worker.member.told().await, Packet::Leaving);
    ended(&mut fresh).await;
    let (answer, poller) = poll.await.unwrap();
    assert_eq!(answer.body, "1");
    assert_eq!(answer.headers["connection"], "close");
    poller.closed().await;
    idle.closed().await;
    until("both polling sessions", || engine.closed().len() == 2).await;
    assert!(
        engine.closed().contains(&engine.made()[0]),
        "{between_polls}"
    );
    // An upgrade under way is let finish.
    assert_eq!(engine.websockets_ended(), 1);
    upgrading.write_all(&[b'x'; 7]).await.unwrap();
    ended(&mut upgrading).await;
    assert_eq!(worker.exit().await, Exit::Shutdown);
    assert_eq!(engine.websockets_ended(), 2);
}

#[tokio::test]
async fn late_handshakes_get_503_and_shall_come_again() {
    let master = StubMaster::new().await;
    let engine = FakeEngine::default();
    let mut worker = master.start(0, engine.clone()).await;
    // Keeps the drain going.
    let held = in_an_upgrade(&master, &mut worker).await;
    worker.shut_down();
    assert_eq!(worker.member.told().await, Packet::Leaving);
    for websocket_too in [false, true] {
        let mut stream = master.connect(&mut worker.member, true).await;
        let head = if websocket_too {
            ask_websocket(&mut stream, &websocket(None)).await
        } else {
            let request = b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: t\r\n\r\n";
            stream.write_all(request).await.unwrap();
            read_head(&mut stream).await
        };
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert!(head.contains("retry-after: 1\r\n"), "{head}");
        assert!(head.contains("connection: close\r\n"), "{head}");
        ended(&mut stream).await;
    }
    assert_eq!(worker.member.settled(), 3);
    drop(held);
    assert_eq!(worker.exit().await, Exit::Shutdown);
}

#[tokio::test]
async fn a_handshake_under_way_is_answered_and_its_session_closed() {
    let master = StubMaster::new().await;
    let engine = FakeEngine::default();
    let mut worker = master.start(0, engine.clone()).await;
    let gate = engine.hold_handshakes();
    let mut client = HttpClient::over(master.connect(&mut worker.member, true).await).await;
    let handshake = tokio::spawn(async move { client.open().await });
    until("the handshake", || engine.handles().len() == 1).await;
    worker.shut_down();
    assert_eq!(worker.member.told().await, Packet::Leaving);
    gate.notify_one();
    handshake.await.unwrap();
    assert_eq!(worker.exit().await, Exit::Shutdown);
    assert_eq!(engine.closed(), ["engine-0"]);
}

#[tokio::test]
async fn the_masters_deadline_cuts_what_does_not_end() {
    let master = StubMaster::new().await;
    let engine = FakeEngine::default();
    let mut worker = master.start(0, engine.clone()).await;
    let sid = HttpClient::over(master.connect(&mut worker.member, true).await)
        .await
        .open()
        .await;
    // A request that never ends.
    let mut upload = master.connect(&mut worker.member, false).await;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\nhal",
        polling(&sid)
    );
    upload.write_all(head.as_bytes()).await.unwrap();
    until("the upload", || engine.uploaded() == 3).await;
    let drain = Packet::Drain {
        spread_ms: 0,
        within_ms: 800,
    };
    worker.member.channel.send(&drain, &[]).await.unwrap();
    let began = std::time::Instant::now();
    ended(&mut upload).await;
    assert_eq!(worker.exit().await, Exit::Drained);
    assert!(
        began.elapsed() >= Duration::from_millis(600),
        "{:?}",
        began.elapsed()
    );
}

/// What the application does at its end depends on it: it is no farewell.
#[tokio::test]
async fn whoever_comes_when_everybody_was_asked_is_sent_elsewhere_too() {
    let master = StubMaster::new().await;
    let engine = FakeEngine::default();
    let mut worker = master.start(0, engine.clone()).await;
    // The worker waits for it.
    let held = in_an_upgrade(&master, &mut worker).await;
    let drain = Packet::Drain {
        spread_ms: 1,
        within_ms: 20_000,
    };
    worker.member.channel.send(&drain, &[]).await.unwrap();
    until("the wish", || engine.handles()[0].is_expected_elsewhere()).await;
    let mut late = master.connect(&mut worker.member, true).await;
    ask_websocket(&mut late, &websocket(None)).await;
    ended(&mut late).await;
    assert!(engine.handles()[1].is_expected_elsewhere());
    drop(held);
    assert_eq!(worker.exit().await, Exit::Drained);
}

#[tokio::test]
async fn a_retired_worker_leaves_and_holds_its_id_until_then() {
    let master = StubMaster::new().await;
    let mut worker = master.start(0, FakeEngine::default()).await;
    let dir = RuntimeDir::open(master.dir.path()).unwrap();
    let holder = || dir.worker_holder(WorkerId(0)).unwrap();
    let mut stream = master.connect(&mut worker.member, true).await;
    ask_websocket(&mut stream, &websocket(None)).await;
    let upgrading = in_an_upgrade(&master, &mut worker).await;
    worker
        .member
        .channel
        .send(&Packet::Retire, &[])
        .await
        .unwrap();
    ended(&mut stream).await;
    assert_eq!(holder(), Some(std::process::id()));
    drop(upgrading);
    assert_eq!(worker.exit().await, Exit::Retired);
    assert_eq!(holder(), None);
}

#[tokio::test]
async fn a_worker_without_a_master_leaves_after_the_orphan_time() {
    let mut master = StubMaster::new().await;
    let mut config = master.config(0);
    config.orphan_time = Duration::from_millis(300);
    let worker = master.start_with(config, FakeEngine::default()).await;
    master.die();
    assert_eq!(worker.exit_without_master().await, Exit::Orphaned);
}
