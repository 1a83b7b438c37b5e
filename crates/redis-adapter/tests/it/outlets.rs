//! What the adapter tells of a socket's queue, and what goes past it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use redis_adapter::{Outlet, WholeEvent};
use tokio::sync::mpsc;

use crate::server::{Server, assert_nothing_more};
use crate::soon;
use crate::stub_bus::Hub;

/// An outlet whose calls are kept, and that does as it is told.
#[derive(Clone)]
pub(crate) struct TestOutlet {
    /// Bytes that may be queued in all.
    limit: usize,
    queued: Arc<AtomicUsize>,
    /// Whether events are taken past the queue.
    takes: Arc<AtomicBool>,
    taken: Arc<Mutex<Vec<String>>>,
    frames_made: Arc<AtomicUsize>,
    overflowed: mpsc::UnboundedSender<()>,
}

impl TestOutlet {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<()>) {
        Self::of_limit(usize::MAX)
    }

    fn of_limit(limit: usize) -> (Self, mpsc::UnboundedReceiver<()>) {
        let (overflowed, told) = mpsc::unbounded_channel();
        let outlet = Self {
            limit,
            queued: Arc::default(),
            takes: Arc::default(),
            taken: Arc::default(),
            frames_made: Arc::default(),
            overflowed,
        };
        (outlet, told)
    }

    fn queued_bytes(&self) -> usize {
        self.queued.load(SeqCst)
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.taken.lock().unwrap())
    }
}

impl Outlet for TestOutlet {
    fn queued(&self, bytes: usize) -> bool {
        self.queued.fetch_add(bytes, SeqCst) + bytes <= self.limit
    }

    fn send_now(&self, event: &WholeEvent<'_>) -> bool {
        let takes = self.takes.load(SeqCst);
        if takes {
            let framed = event.framed(|packet| {
                self.frames_made.fetch_add(1, SeqCst);
                packet.to_vec()
            });
            let packet = String::from_utf8(framed.to_vec()).unwrap();
            self.taken.lock().unwrap().push(packet);
        }
        takes
    }

    fn overflowed(&self) {
        self.overflowed.send(()).unwrap();
    }
}

/// A socket whose queue was full missed broadcasts, and nobody knew which socket it was.
#[tokio::test]
async fn a_socket_that_misses_a_broadcast_is_named() {
    let hub = Hub::default();
    let (mut server, _) = Server::on_stub(&hub);
    let (stalled, slow) = server.member(&["room"]).await;
    let (_reads, quick) = server.member(&["room"]).await;
    let (outlet, mut overflowed) = TestOutlet::new();
    server.state.outlet(&slow, outlet);
    let (outlet, quick_overflowed) = TestOutlet::new();
    server.state.outlet(&quick, outlet);
    stalled.stall();
    // `quick` has room for all that comes before it reads; `slow` has none for the last.
    let own = slow.id.to_string();
    let emit = |rooms: &[&str]| drop(server.state.broadcast_event("/", rooms, &[], "event", &1));
    while overflowed.is_empty() {
        emit(&[&own]);
    }
    assert_eq!(overflowed.recv().await, Some(()));
    emit(&["room"]);
    assert_eq!(overflowed.recv().await, Some(()));
    emit(&[]);
    assert_eq!(overflowed.recv().await, Some(()));
    server.state.disconnected("/", slow.id);
    emit(&[]);
    assert!(overflowed.try_recv().is_err());
    assert!(quick_overflowed.is_empty());
}

/// A bound in bytes, which socketioxide does not have.
#[tokio::test]
async fn a_socket_with_too_many_bytes_in_its_queue_is_named() {
    let hub = Hub::default();
    let (mut server, _) = Server::on_stub(&hub);
    let (_reads, slow) = server.member(&["room"]).await;
    let (_other_reads, _quick) = server.member(&["room"]).await;
    let (outlet, mut overflowed) = TestOutlet::of_limit(40);
    server.state.outlet(&slow, outlet.clone());
    let emit = || {
        drop(
            server
                .state
                .broadcast_event("/", &["room"], &[], "event", &"0123456789"),
        )
    };
    // `["event","0123456789"]` has 22 bytes.
    emit();
    assert!(overflowed.try_recv().is_err());
    emit();
    assert!(overflowed.try_recv().is_ok());
    server.state.disconnected("/", slow.id);
    emit();
    assert_eq!(outlet.queued_bytes(), 44);
}

#[tokio::test]
async fn an_event_goes_past_the_queue_as_its_packet_or_through_it() {
    let hub = Hub::default();
    let (mut server, _) = Server::on_stub(&hub);
    let (mut other, _) = Server::on_stub(&hub);
    let (mut root, in_root) = server.client().await;
    let (mut second, in_root_too) = server.client().await;
    let (mut orders, in_orders) = server.client_in("/orders").await;
    let (_on_other, _) = other.client().await;
    let (outlet, _told) = TestOutlet::new();
    for socket in [&in_root, &in_root_too, &in_orders] {
        server.state.outlet(socket, outlet.clone());
    }
    outlet.takes.store(true, SeqCst);
    let here = async |namespace: &str| {
        let sent = server
            .state
            .broadcast_event(namespace, &[], &[], "event", &("é", 1));
        soon(sent).await.unwrap();
    };
    here("/").await;
    here("/orders").await;
    let packet = "42[\"event\",\"é\",1]";
    let in_orders_packet = "42/orders,[\"event\",\"é\",1]";
    assert_eq!(outlet.taken(), [packet, packet, in_orders_packet]);
    // For two clients it is made once.
    assert_eq!(outlet.frames_made.load(SeqCst), 2);
    assert_eq!(outlet.queued_bytes(), 0);
    assert_nothing_more(&mut root, &in_root).await;
    assert_nothing_more(&mut second, &in_root_too).await;
    assert_nothing_more(&mut orders, &in_orders).await;
    server.state.disconnected("/", in_root_too.id);

    // Of another process.
    let sent = other
        .state
        .broadcast_event("/", &[], &[], "event", &serde_json::json!({"a": [1]}));
    soon(sent).await.unwrap();
    soon(async {
        while outlet.taken() != ["42[\"event\",{\"a\":[1]}]"] {
            tokio::task::yield_now().await;
        }
    })
    .await;

    // Attachments are packets of their own.
    let attached = Bytes::from_static(b"1");
    let sent = server.io.broadcast().emit("file", &attached);
    soon(sent).await.unwrap();
    assert_eq!(root.event().await.attachments, [b"1"]);
    assert!(outlet.taken().is_empty());
    let queued = outlet.queued_bytes();
    assert!(queued > 0);

    outlet.takes.store(false, SeqCst);
    here("/").await;
    assert_eq!(root.json().await, "[\"event\",\"é\",1]");
    assert_eq!(outlet.queued_bytes(), queued + "[\"event\",\"é\",1]".len());
}

/// What else the adapter queues for a socket.
#[tokio::test]
async fn all_that_is_queued_is_told() {
    let hub = Hub::default();
    let (mut server, _) = Server::on_stub(&hub);
    let (mut client, socket) = server.client().await;
    let (outlet, _told) = TestOutlet::new();
    server.state.outlet(&socket, outlet.clone());
    outlet.takes.store(true, SeqCst);

    let gate = soon(server.state.hold(&socket, &["room"])).await.unwrap();
    let sent = server
        .state
        .broadcast_event("/", &["room"], &[], "held", &1);
    soon(sent).await.unwrap();
    assert_eq!(outlet.queued_bytes(), 0);
    gate.open(|_| true).unwrap();
    assert_eq!(outlet.queued_bytes(), "[\"held\",1]".len());
    assert_eq!(client.json().await, "[\"held\",1]");

    let io = server.io.clone();
    let asked = io.to("room").emit_with_ack::<_, i32>("asked", &1);
    let _acks = soon(asked).await.unwrap();
    let told = "[\"held\",1]".len() + "[\"asked\",1]".len();
    assert_eq!(outlet.queued_bytes(), told);
    assert_eq!(client.asked().await.1, "[\"asked\",1]");
    assert!(outlet.taken().is_empty());
}

/// Packets that wait for one client leave together.
#[tokio::test]
async fn who_is_behind_queues() {
    let hub = Hub::default();
    let (mut server, _) = Server::on_stub(&hub);
    let (other, _) = Server::on_stub(&hub);
    let (mut client, socket) = server.client().await;
    let (outlet, _told) = TestOutlet::new();
    server.state.outlet(&socket, outlet.clone());
    outlet.takes.store(true, SeqCst);
    // All there before the first is delivered.
    for number in 1..=9 {
        drop(other.state.broadcast_event("/", &[], &[], "n", &number));
    }
    let size = "[\"n\",1]".len();
    soon(async {
        while outlet.queued_bytes() / size + outlet.taken.lock().unwrap().len() < 9 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    socket.emit("mark", &0).unwrap();
    // At least as many as have four behind them; other servers' signs of life count, too.
    let mut queued = 0;
    while let json = client.json().await
        && json != "[\"mark\",0]"
    {
        queued += 1;
        assert_eq!(json, format!("[\"n\",{queued}]"));
    }
    assert!(queued >= 5, "{queued}");
    let others = (queued + 1..=9).map(|number| format!("42[\"n\",{number}]"));
    assert_eq!(outlet.taken(), others.collect::<Vec<_>>());
}
