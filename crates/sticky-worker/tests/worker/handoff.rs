//! The channel to the master: registration, sockets, counters, successors.

use std::sync::atomic::Ordering::SeqCst;

use common::handoff::Packet;
use common::worker_id::WorkerId;
use sticky_worker::{RegisterError, Worker};
use tokio::io::AsyncWriteExt;

use crate::client::{HttpClient, ask_websocket, polling, read_exactly, websocket};
use crate::fake_engine::FakeEngine;
use crate::stub_master::{Running, StubMaster};
use crate::until;

#[tokio::test]
async fn a_worker_says_who_it_is_and_when_it_is_ready() {
    let master = StubMaster::new().await;
    let worker = master.start(5, FakeEngine::default()).await;
    let hello = worker.member.hello;
    assert_eq!(hello.worker, WorkerId(5));
    assert_eq!(hello.pid, std::process::id());
    assert!(!hello.ready);
    assert_eq!((hello.received, hello.balanced_received), (0, 0));
    assert!(worker.member.board.fd_headroom.load(SeqCst) > 0);
    for ready in [true, false, true] {
        worker.handle.set_ready(ready);
        assert_eq!(worker.member.told().await, Packet::Ready(ready));
    }
    let board = &worker.member.board;
    until("the heartbeat", || board.heartbeat_ms.load(SeqCst) > 0).await;
}

#[tokio::test]
async fn an_id_belongs_to_one_worker_and_a_master_may_refuse() {
    let master = StubMaster::new().await;
    let _first = master.start(5, FakeEngine::default()).await;
    let second = Worker::register(master.config(5)).await;
    assert!(matches!(second, Err(RegisterError::RuntimeDir(_))));
    let (refused, _) = tokio::join!(
        Worker::register(master.config(6)),
        master.admit(Packet::Retire)
    );
    assert!(matches!(refused, Err(RegisterError::Retired(WorkerId(6)))));
}

#[tokio::test]
async fn several_sockets_come_in_one_message_and_are_counted_before_they_are_served() {
    let master = StubMaster::new().await;
    let mut worker = master.start(0, FakeEngine::default()).await;
    let (clients, served) = master.sockets(16).await;
    worker.member.hand_over(&served, true).await;
    // The worker's copies are the last ones.
    drop(served);
    for client in clients {
        let answer = HttpClient::over(client).await.get("/nothing").await;
        assert_eq!(answer.body, "nothing at /nothing");
        assert!(worker.member.board.received.load(SeqCst) >= 16);
    }
    let member = &worker.member;
    until("all settled", || member.settled() == 16).await;
}

#[tokio::test]
async fn a_balanced_socket_is_settled_once_it_is_known_what_it_is() {
    let master = StubMaster::new().await;
    let engine = FakeEngine::default();
    let mut worker = master.start(0, engine.clone()).await;
    let member = &mut worker.member;
    let gate = engine.hold_handshakes();

    // A handshake: when it is answered, and counted before.
    let mut opening = HttpClient::over(master.connect(member, true).await).await;
    let opening = tokio::spawn(async move { (opening.open().await, opening) });
    until("the handshake", || engine.handles().len() == 1).await;
    assert_eq!((member.settled(), member.clients()), (0, 0));
    gate.notify_one();
    let (sid, _opening) = opening.await.unwrap();
    assert_eq!((member.settled(), member.clients()), (1, 1));

    // A poll: by its head, while it waits.
    let mut poller = HttpClient::over(master.connect(member, true).await).await;
    let poll = tokio::spawn(async move { poller.get(&polling(&sid)).await });
    until("the poll", || engine.polls() == 1).await;
    assert_eq!(member.settled(), 2);

    // A WebSocket: counted first.
    let mut stream = master.connect(member, true).await;
    ask_websocket(&mut stream, &websocket(None)).await;
    assert_eq!((member.settled(), member.clients()), (3, 2));

    // A client that leaves without a word; and one that was not balanced.
    drop(master.connect(member, true).await);
    until("the silent client", || member.settled() == 4).await;
    drop(master.connect(member, false).await);
    let connections = &member.board.connections;
    until("the other one", || {
        member.board.received.load(SeqCst) == 5 && connections.load(SeqCst) == 3
    })
    .await;
    assert_eq!(member.settled(), 4);
    poll.abort();
}

#[tokio::test]
async fn the_master_is_woken_when_it_asked() {
    let master = StubMaster::new().await;
    let mut worker = master.start(0, FakeEngine::default()).await;
    worker.member.board.ask_wake();
    let _client = master.connect(&mut worker.member, true).await;
    let delivery = worker.member.channel.receive().await.unwrap().unwrap();
    assert_eq!(delivery.packet, Packet::Progress);
    assert_eq!(worker.member.board.received.load(SeqCst), 1);
}

#[tokio::test]
async fn connections_and_the_last_sockets_outlive_the_master() {
    let mut master = StubMaster::new().await;
    let engine = FakeEngine::default();
    let Running {
        mut member, handle, ..
    } = master.start(0, engine.clone()).await;
    handle.set_ready(true);
    let mut held = master.connect(&mut member, true).await;
    ask_websocket(&mut held, &websocket(None)).await;

    // Packets that the master never reads turn its death into a reset; sockets
    // that it had sent are served all the same.
    master.die();
    let late = master.connect(&mut member, true).await;
    member.die();
    let answer = HttpClient::over(late).await.get("/late").await;
    assert_eq!(answer.body, "nothing at /late");
    held.write_all(b"still here").await.unwrap();
    assert_eq!(read_exactly(&mut held, 10).await, b"still here");

    // The next master is found, and told where the count stands.
    master.listen();
    let mut member = master.admit(Packet::Welcome).await;
    assert!(member.hello.ready);
    assert_eq!(member.hello.received, 2);
    assert_eq!(member.hello.balanced_received, 2);
    assert_eq!(member.clients(), 1);
    let client = master.connect(&mut member, true).await;
    HttpClient::over(client).await.open().await;
    assert_eq!(member.board.received.load(SeqCst), 3);
}
