//! Sockets that are held back while their application reads the store.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use redis_adapter::{AdapterState, Gate, HoldError};

use crate::client::Client;
use crate::server::{Server, Socket, assert_nothing_more};
use crate::soon;
use crate::stub_bus::{Hub, StubBus};

/// Two servers, and a client on the first that is held for the room `mine`.
struct Held {
    here: Server,
    there: Server,
    bus: Arc<StubBus>,
    client: Client,
    socket: Socket,
    gate: Option<Gate>,
    /// A client on the first server that is in all rooms and not held.
    witness: (Client, Socket),
}

async fn held() -> Held {
    let hub = Hub::default();
    let (mut here, bus) = Server::on_stub(&hub);
    let (there, _) = Server::on_stub(&hub);
    let witness = here.member(&["mine", "other"]).await;
    let (client, socket) = here.client().await;
    let gate = soon(here.state.hold(&socket, &["mine"])).await.unwrap();
    Held {
        here,
        there,
        bus,
        client,
        socket,
        gate: Some(gate),
        witness,
    }
}

impl Held {
    /// Broadcasts a number from the other process, and waits until it was
    /// dispatched on this one.
    async fn remote(&mut self, rooms: &[&str], number: u32) {
        let sent = self
            .there
            .state
            .broadcast_event("/", rooms, &[], "n", &number);
        soon(sent).await.unwrap();
        assert_eq!(self.witness.0.json().await, event(number));
    }

    /// Broadcasts a number from this process.
    async fn local(&mut self, rooms: &[&str], number: u32) {
        drop(
            self.here
                .state
                .broadcast_event("/", rooms, &[], "n", &number),
        );
        assert_eq!(self.witness.0.json().await, event(number));
    }

    async fn assert_next(&mut self, numbers: &[u32]) {
        for number in numbers {
            assert_eq!(self.client.json().await, event(*number));
        }
        assert_nothing_more(&mut self.client, &self.socket).await;
    }

    fn open(&mut self) {
        self.gate.take().unwrap().open(|_| true).unwrap();
    }
}

fn event(number: u32) -> String {
    format!(r#"["n",{number}]"#)
}

#[tokio::test]
async fn what_is_broadcast_waits_and_comes_in_order_once() {
    let mut held = held().await;
    held.remote(&["mine"], 1).await;
    held.local(&[], 2).await;
    held.remote(&["other"], 100).await;
    held.local(&["other"], 101).await;
    held.remote(&[], 3).await;
    held.local(&["mine", "other"], 4).await;
    held.remote(&["other", "mine"], 5).await;
    // Nothing has come so far, and what is sent to the socket itself passes.
    held.assert_next(&[]).await;
    held.open();
    held.assert_next(&[1, 2, 3, 4, 5]).await;
    // Open: the rooms are joined and nothing waits any more.
    held.local(&["mine"], 6).await;
    held.remote(&["mine"], 7).await;
    held.local(&[], 8).await;
    held.assert_next(&[6, 7, 8]).await;
}

#[tokio::test]
async fn the_caller_chooses_by_the_json_text() {
    let mut held = held().await;
    for number in 1..=4 {
        held.remote(&["mine"], number).await;
    }
    let gate = held.gate.take().unwrap();
    let mut seen = Vec::new();
    let keep = |json: &str| {
        seen.push(json.to_owned());
        json != event(2) && json != event(3)
    };
    gate.open(keep).unwrap();
    assert_eq!(seen, [1, 2, 3, 4].map(event));
    held.assert_next(&[1, 4]).await;
}

/// A message was stored, then read by a log-in, then published: the socket has
/// it from the snapshot and would hear it again.
#[tokio::test]
async fn a_repeat_that_comes_after_the_opening_is_screened() {
    let mut held = held().await;
    held.here.state.connected(&held.socket);
    held.remote(&["mine"], 1).await;
    let gate = held.gate.take().unwrap();
    gate.open_and_screen(|json| json != event(2)).unwrap();
    held.remote(&["mine"], 2).await;
    held.local(&["mine"], 2).await;
    held.local(&["mine"], 3).await;
    // What may have been missed is delivered here alone, and screened as well.
    for number in [2, 4] {
        let state = &held.here.state;
        state
            .deliver_event("/", &["mine"], &[], "n", &number)
            .unwrap();
        assert_eq!(held.witness.0.json().await, event(number));
    }
    held.assert_next(&[1, 3, 4]).await;
}

/// The screen takes note of what it is asked for: asked twice, or for an event
/// that is for others, it would keep the socket from its own.
#[tokio::test]
async fn a_screen_is_asked_once_and_only_for_what_is_sent() {
    let hub = Hub::default();
    let (mut here, _) = Server::on_stub(&hub);
    let (mut client, socket) = here.client().await;
    let gate = soon(here.state.hold(&socket, &["one", "two"]))
        .await
        .unwrap();
    let heard = Mutex::new(HashSet::new());
    let is_news = move |json: &str| heard.lock().unwrap().insert(json.to_owned());
    gate.open_and_screen(is_news).unwrap();
    soon(here.state.join(&socket, &["three"])).await.unwrap();
    let state = &here.state;
    let deliver = |except: &[&str]| {
        let rooms = ["one", "two"];
        state.deliver_event("/", &rooms, except, "n", &1).unwrap();
    };
    deliver(&["three"]);
    deliver(&[]);
    deliver(&[]);
    assert_eq!(client.json().await, event(1));
    assert_nothing_more(&mut client, &socket).await;
}

#[tokio::test]
async fn the_hold_begins_at_the_call_and_ends_with_the_future() {
    let (mut here, bus) = Server::on_stub(&Hub::default());
    let (mut client, socket) = here.client().await;
    bus.confirm(false);
    let mut hold = here.state.hold(&socket, &["mine"]);
    drop(here.state.broadcast_event("/", &["mine"], &[], "n", &1));
    assert!((&mut hold).now_or_never().is_none(), "not confirmed yet");
    bus.confirm(true);
    let gate = soon(hold).await.unwrap();
    assert_nothing_more(&mut client, &socket).await;
    gate.open(|_| true).unwrap();
    assert_eq!(client.json().await, event(1));

    here.state.leave(&socket, &["mine"]);
    bus.confirm(false);
    drop(here.state.hold(&socket, &["mine"]));
    drop(here.state.broadcast_event("/", &[], &[], "n", &2));
    assert_eq!(client.json().await, event(2));
    bus.refuse(true);
    let refused = soon(here.state.hold(&socket, &["mine"])).await;
    assert!(matches!(refused, Err(HoldError::Bus(_))));
    drop(here.state.broadcast_event("/", &[], &[], "n", &3));
    assert_eq!(client.json().await, event(3));
    assert!(!bus.channels().contains("socket.io#/#mine#"));
}

#[tokio::test]
async fn a_gate_that_is_dropped_leaves_nothing_behind() {
    let mut held = held().await;
    held.remote(&["mine"], 1).await;
    held.gate = None;
    held.local(&["mine"], 2).await;
    held.local(&[], 3).await;
    held.assert_next(&[3]).await;
    held.here.state.leave(&held.witness.1, &["mine"]);
    assert!(!held.bus.channels().contains("socket.io#/#mine#"));
}

#[tokio::test]
async fn a_socket_has_one_gate_at_a_time() {
    let mut held = held().await;
    let second = soon(held.here.state.hold(&held.socket, &["more"])).await;
    assert_eq!(second.unwrap_err(), HoldError::AlreadyHeld);
    assert!(!held.bus.channels().contains("socket.io#/#more#"));
    held.local(&[], 1).await;
    held.open();
    held.assert_next(&[1]).await;
    held.gate = Some(
        soon(held.here.state.hold(&held.socket, &["more"]))
            .await
            .unwrap(),
    );
    held.local(&["mine"], 2).await;
    held.assert_next(&[]).await;
    held.open();
    held.assert_next(&[2]).await;
}

#[tokio::test]
async fn those_who_are_left_out_get_nothing_from_the_gate_either() {
    let mut held = held().await;
    let own = held.socket.id.to_string();
    for except in ["mine", &own] {
        let sent = held
            .here
            .state
            .broadcast_event("/", &[], &[except], "n", &100);
        soon(sent).await.unwrap();
    }
    assert_eq!(held.witness.0.json().await, event(100));
    // From the socket itself.
    held.socket.broadcast().emit("n", &101).await.unwrap();
    held.socket.to("mine").emit("n", &101).await.unwrap();
    for _ in 0..2 {
        assert_eq!(held.witness.0.json().await, event(101));
    }
    held.here
        .state
        .broadcast_event("/", &[&own], &[], "n", &1)
        .await
        .unwrap();
    held.open();
    held.assert_next(&[1]).await;
}

#[tokio::test]
async fn a_full_gate_says_so_and_holds_on() {
    let mut held = held().await;
    let flood = |state: &AdapterState, count: u32| {
        for number in 0..count {
            let only_held = held.socket.id.to_string();
            drop(state.broadcast_event("/", &[&only_held], &[], "n", &number));
        }
    };
    let gate = held.gate.take().unwrap();
    flood(&held.here.state, 1025);
    let mut asked = 0;
    let keep = |_: &str| {
        asked += 1;
        true
    };
    let gate = gate.open(keep).unwrap_err().into_gate();
    assert_eq!(asked, 0, "what was kept is of no use");

    // No more than the socket's own queue takes, and then all or nothing.
    flood(&held.here.state, 65);
    let gate = gate.open(|_| true).unwrap_err().into_gate();
    flood(&held.here.state, 64);
    gate.open(|_| true).unwrap();
    let all: Vec<u32> = (0..64).collect();
    held.assert_next(&all).await;
}

#[tokio::test]
async fn the_bytes_of_a_gate_are_bounded() {
    let mut held = held().await;
    let large = "x".repeat(1024 * 1024);
    let own = held.socket.id.to_string();
    for _ in 0..4 {
        drop(
            held.here
                .state
                .broadcast_event("/", &[&own], &[], "large", &large),
        );
    }
    let gate = held
        .gate
        .take()
        .unwrap()
        .open(|_| false)
        .unwrap_err()
        .into_gate();
    drop(
        held.here
            .state
            .broadcast_event("/", &[&own], &[], "large", &large),
    );
    let mut seen = 0;
    let count = |_: &str| {
        seen += 1;
        false
    };
    gate.open(count).unwrap();
    assert_eq!(seen, 1);
}

#[tokio::test]
async fn a_socket_that_goes_takes_its_gate_along() {
    let mut held = held().await;
    held.here.state.leave(&held.witness.1, &["mine", "other"]);
    held.client.leave("/").await;
    held.here.socket_gone().await;
    assert!(!held.bus.channels().contains("socket.io#/#mine#"));
    let gate = held.gate.take().unwrap();
    gate.open(|_| true).unwrap();
    // Held after it is gone: a gate that does nothing.
    let gate = soon(held.here.state.hold(&held.socket, &["mine"]))
        .await
        .unwrap();
    gate.open(|_| true).unwrap();
    assert!(!held.bus.channels().contains("socket.io#/#mine#"));
    held.local(&[], 1).await;
}

#[tokio::test]
async fn a_gate_of_an_earlier_visit_does_not_touch_the_next() {
    let mut held = held().await;
    held.client.leave("/").await;
    held.here.socket_gone().await;
    let stale = held.gate.take().unwrap();
    held.here.forgotten(&held.socket).await;
    held.client.enter("/").await;
    let socket = held.here.socket().await;
    assert_eq!(socket.id, held.socket.id);
    held.socket = socket;
    held.gate = Some(
        soon(held.here.state.hold(&held.socket, &["mine"]))
            .await
            .unwrap(),
    );
    held.local(&["mine"], 1).await;
    drop(stale);
    held.assert_next(&[]).await;
    held.open();
    held.assert_next(&[1]).await;
}

const NUMBERS: u32 = 400;

/// A store of numbers that grows while clients log in on several threads: what
/// a client finds in the store and what it is sent are together everything,
/// and no event comes twice, whatever the timing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn snapshot_and_events_are_together_everything() {
    const LOGINS: usize = 20;
    let hub = Hub::default();
    let (mut here, _) = Server::on_stub(&hub);
    let (there, _) = Server::on_stub(&hub);
    let store = Arc::new(Mutex::new(Vec::new()));

    let writers = [there.state.clone(), here.state.clone()]
        .into_iter()
        .enumerate();
    let writers: Vec<_> = writers
        .map(|(writer, state)| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0..NUMBERS {
                    let number = number * 2 + writer as u32;
                    store.lock().unwrap().push(number);
                    let rooms: &[&str] = if number.is_multiple_of(3) {
                        &["mine"]
                    } else {
                        &[]
                    };
                    soon(state.broadcast_event("/", rooms, &[], "n", &number))
                        .await
                        .unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();

    let mut readers = Vec::new();
    for _ in 0..LOGINS {
        let (client, socket) = here.client().await;
        let (state, store) = (here.state.clone(), store.clone());
        readers.push(tokio::spawn(log_in(state, store, client, socket)));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for reader in readers {
        let (snapshot, events) = reader.await.unwrap();
        let all: HashSet<u32> = snapshot.into_iter().chain(events.keys().copied()).collect();
        assert_eq!(all.len(), 2 * NUMBERS as usize, "nothing falls between");
        assert!(
            events.values().all(|times| *times == 1),
            "no event comes twice"
        );
    }
}

async fn log_in(
    state: AdapterState,
    store: Arc<Mutex<Vec<u32>>>,
    mut client: Client,
    socket: Socket,
) -> (Vec<u32>, HashMap<u32, u32>) {
    // Before the hold, broadcasts to everyone reach the socket: begin after them.
    let mut gate = soon(state.hold(&socket, &["mine"])).await.unwrap();
    socket.emit("held", &0).unwrap();
    while client.json().await != r#"["held",0]"# {}

    let mut snapshot;
    loop {
        snapshot = store.lock().unwrap().clone();
        let keep = |json: &str| snapshot.iter().all(|number| json != event(*number));
        match gate.open(keep) {
            Ok(()) => break,
            Err(overflow) => gate = overflow.into_gate(),
        }
    }
    // Each writer's numbers come in order: after both last ones there are no more.
    let mut events = HashMap::new();
    let last = [2 * NUMBERS - 2, 2 * NUMBERS - 1];
    while !last
        .iter()
        .all(|number| snapshot.contains(number) || events.contains_key(number))
    {
        let (_, number): (String, u32) = serde_json::from_str(&client.json().await).unwrap();
        *events.entry(number).or_insert(0) += 1;
    }
    (snapshot, events)
}
