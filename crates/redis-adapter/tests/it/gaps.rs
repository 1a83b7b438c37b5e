//! What is heard after a gap waits until the application has made good what was missed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use redis_adapter::{EventSender, Missed};
use tokio::time::Instant;

use crate::client::Client;
use crate::outlets::TestOutlet;
use crate::server::{Server, Socket, assert_nothing_more};
use crate::soon;
use crate::stub_bus::{Hub, StubBus};

/// A process with a socket that is screened in `mine`, and another process that sends.
struct Stage {
    here: Server,
    bus: Arc<StubBus>,
    there: Server,
    client: Client,
    socket: Socket,
}

async fn stage() -> Stage {
    let hub = Hub::default();
    let (mut here, bus) = Server::on_stub(&hub);
    let (there, _) = Server::on_stub(&hub);
    let (client, socket) = here.client().await;
    let gate = soon(here.state.hold(&socket, &["mine"])).await.unwrap();
    let heard = Mutex::new(HashSet::new());
    let is_news = move |json: &str| heard.lock().unwrap().insert(json.to_owned());
    gate.open_and_screen(is_news).unwrap();
    Stage {
        here,
        bus,
        there,
        client,
        socket,
    }
}

impl Stage {
    fn events(&self) -> &EventSender {
        self.bus.events()
    }

    async fn send(&self, rooms: &[&str], number: u64) {
        let state = &self.there.state;
        let sent = state.broadcast_event("/", rooms, &[], "n", &number);
        soon(sent).await.unwrap();
    }

    async fn missed(&self) -> Missed {
        soon(self.here.state.missed()).await
    }

    /// As read from the store.
    fn deliver(&self, number: u64) {
        let state = &self.here.state;
        let delivered = state.deliver_event("/", &["mine"], &[], "n", &number);
        delivered.unwrap();
    }

    /// Asserts that the socket gets these and nothing else, up to what everybody hears.
    async fn assert_got(&mut self, numbers: &[u64]) {
        for number in numbers {
            assert_eq!(self.client.json().await, format!(r#"["n",{number}]"#));
        }
        // It goes the same way, and waits for nothing.
        self.send(&[], 99).await;
        assert_eq!(self.client.json().await, r#"["n",99]"#);
    }
}

#[tokio::test]
async fn what_was_missed_comes_before_what_came_later() {
    let mut stage = stage().await;
    stage.send(&["mine"], 1).await;
    stage.events().down();
    // 2 was missed; the subscription is half-way back.
    stage.send(&["mine"], 3).await;
    stage.events().gap(Instant::now());
    stage.send(&["mine"], 4).await;
    stage.assert_got(&[1]).await;

    let missed = stage.missed().await;
    // The store had 3 by then.
    for number in [1, 2, 3] {
        stage.deliver(number);
    }
    let state = stage.here.state.clone();
    state.made_good(&missed, "/", "mine").unwrap();
    stage.send(&["mine"], 5).await;
    stage.assert_got(&[2, 3, 4, 5]).await;
    state.all_made_good(&missed);
    stage.send(&["mine"], 6).await;
    stage.assert_got(&[6]).await;
}

#[tokio::test]
async fn a_second_gap_holds_back_again() {
    let mut stage = stage().await;
    stage.events().gap(Instant::now());
    let first = stage.missed().await;
    stage.events().down();
    stage.send(&["mine"], 2).await;
    stage.assert_got(&[]).await;
    let state = stage.here.state.clone();
    state.made_good(&first, "/", "mine").unwrap();
    state.all_made_good(&first);
    stage.assert_got(&[]).await;
    stage.events().gap(Instant::now());
    let second = stage.missed().await;
    stage.deliver(1);
    state.all_made_good(&second);
    stage.assert_got(&[1, 2]).await;
}

#[tokio::test]
async fn a_room_without_a_screen_waits_for_nothing() {
    let mut stage = stage().await;
    let (mut client, socket) = stage.here.member(&["open"]).await;
    stage.events().down();
    stage.send(&["open"], 1).await;
    assert_eq!(client.json().await, r#"["n",1]"#);
    assert_nothing_more(&mut client, &socket).await;
    assert_nothing_more(&mut stage.client, &stage.socket).await;
}

/// Whoever's messages were dropped has to come back, and read them then.
#[tokio::test]
async fn who_missed_more_than_can_wait_is_told() {
    let mut stage = stage().await;
    let (outlet, mut overflowed) = TestOutlet::new();
    stage.here.state.outlet(&stage.socket, outlet);
    stage.events().gap(Instant::now());
    let missed = stage.missed().await;
    for number in 0..=16_384 {
        stage.send(&["mine"], number).await;
    }
    stage.assert_got(&[]).await;
    let state = stage.here.state.clone();
    state.made_good(&missed, "/", "mine").unwrap_err();
    for number in 0..=16_384 {
        stage.send(&["mine"], number).await;
    }
    stage.assert_got(&[]).await;
    assert!(overflowed.is_empty());
    state.all_made_good(&missed);
    soon(overflowed.recv()).await.unwrap();
}

#[tokio::test]
async fn what_waits_for_a_room_is_dropped_when_it_missed_something_for_good() {
    let mut stage = stage().await;
    stage.events().gap(Instant::now());
    let missed = stage.missed().await;
    stage.send(&["mine"], 1).await;
    stage.assert_got(&[]).await;
    let state = stage.here.state.clone();
    state.missed_for_good("/", &["mine"]);
    state.all_made_good(&missed);
    stage.assert_got(&[]).await;
}

#[tokio::test]
async fn a_channel_of_the_applications_own_waits_if_it_is_to_be_in_order() {
    let hub = Hub::default();
    let (server, bus) = Server::on_stub(&hub);
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let tell = |name: &'static str| {
        let sender = sender.clone();
        move |message: &bytes::Bytes| sender.send((name, message.clone())).unwrap()
    };
    server.state.listen("loose", tell("loose"));
    server.state.listen_in_order("kept", tell("kept"));
    bus.events().gap(Instant::now());
    let missed = soon(server.state.missed()).await;
    hub.send("kept", b"1");
    hub.send("loose", b"2");
    let (name, message) = soon(heard.recv()).await.unwrap();
    assert_eq!((name, &message[..]), ("loose", &b"2"[..]));
    server.state.made_good_on(&missed, "kept").unwrap();
    hub.send("kept", b"3");
    for expected in [b"1", b"3"] {
        let (name, message) = soon(heard.recv()).await.unwrap();
        assert_eq!((name, &message[..]), ("kept", &expected[..]));
    }
}
