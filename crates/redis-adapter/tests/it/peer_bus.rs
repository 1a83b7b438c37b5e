//! The bus between the processes of one machine: how they meet, and what others are told of those
//! that die, freeze, do not keep up or speak something else. Peers that misbehave are played by the
//! test, in bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use redis_adapter::{Bus, BusError, EventReceiver, PeerBus, PeerBusOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

use crate::bus_conformance::{self, Buses, channels, message, next_gap, publish};
use crate::soon;

/// A directory in which processes meet.
struct Meeting {
    directory: tempfile::TempDir,
    named: AtomicU32,
}

impl Meeting {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            named: AtomicU32::new(0),
        }
    }

    fn options(&self, name: &str) -> PeerBusOptions {
        PeerBusOptions::new(self.directory.path(), name)
    }

    fn start(&self, name: &str) -> (PeerBus, EventReceiver) {
        PeerBus::start(self.options(name)).unwrap()
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.bus"))
    }
}

impl Buses for Meeting {
    fn process(&self) -> (Arc<dyn Bus>, EventReceiver) {
        let number = self.named.fetch_add(1, Ordering::Relaxed);
        let (bus, events) = self.start(&format!("process-{number}"));
        (Arc::new(bus), events)
    }
}

#[tokio::test]
async fn the_bus_of_peers_conforms() {
    bus_conformance::run(&Meeting::new()).await;
}

/// Each on a thread of its own, as processes are.
#[test]
fn all_who_come_at_the_same_moment_hear_each_other() {
    const PROCESSES: usize = 6;
    for _ in 0..5 {
        let meeting = Meeting::new();
        let barrier = tokio::sync::Barrier::new(PROCESSES);
        let process = async |number: usize| {
            let (bus, mut events) = meeting.start(&format!("p{number}"));
            soon(bus.subscribe(channels(&["a"]))).await.unwrap();
            soon(bus.watch_up().wait_for(|up| *up)).await.unwrap();
            barrier.wait().await;
            soon(publish(&bus, "a", &number.to_string())).await.unwrap();
            let mut heard = [false; PROCESSES];
            while heard.contains(&false) {
                let Some(redis_adapter::BusEvent::Message { payload, .. }) =
                    soon(events.recv()).await
                else {
                    panic!("nothing but messages was expected");
                };
                heard[usize::from(payload[0] - b'0')] = true;
            }
            barrier.wait().await;
        };
        std::thread::scope(|scope| {
            for number in 0..PROCESSES {
                let process = &process;
                scope.spawn(move || {
                    let mut builder = tokio::runtime::Builder::new_current_thread();
                    let runtime = builder.enable_all().build().unwrap();
                    runtime.block_on(process(number));
                });
            }
        });
    }
}

/// The first answer to a subscription was forgotten when the stream for it began, and everybody
/// waited for a second at their start.
#[tokio::test]
async fn nobody_is_given_up_who_answers() {
    let meeting = Meeting::new();
    let mut options = meeting.options("a");
    // Longer than this test has.
    options.answer_timeout = Duration::from_secs(3600);
    let (first, mut events) = PeerBus::start(options.clone()).unwrap();
    let subscribed = first.subscribe(channels(&["a"]));
    options.name = "b".to_owned();
    let (second, mut others) = PeerBus::start(options).unwrap();
    let second_subscribed = second.subscribe(channels(&["a"]));
    soon(second.watch_up().wait_for(|up| *up)).await.unwrap();
    soon(subscribed).await.unwrap();
    soon(second_subscribed).await.unwrap();
    soon(first.subscribe(channels(&["b"]))).await.unwrap();
    soon(second.subscribe(channels(&["b"]))).await.unwrap();
    soon(publish(&first, "b", "x")).await.unwrap();
    for events in [&mut events, &mut others] {
        assert_eq!(soon(events.recv()).await, Some(message("b", "x")));
    }
}

#[tokio::test]
async fn a_death_is_a_gap_since_the_last_sign_of_life() {
    let meeting = Meeting::new();
    let (_bus, mut events) = meeting.start("a");
    let began = Instant::now();
    let (dies, _) = meeting.start("b");
    soon(dies.watch_up().wait_for(|up| *up)).await.unwrap();
    // Says nothing; its signs of life are seen by nobody but the bus.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let died = Instant::now();
    drop(dies);
    let since = next_gap(&mut events).await;
    assert!(since <= died, "it may have done something right before");
    assert!(since > began + Duration::from_millis(500), "it lived later");
    assert_eq!(events.recv().now_or_never(), None, "one gap is enough");
}

#[tokio::test]
async fn a_successor_of_the_same_name_takes_the_place() {
    let meeting = Meeting::new();
    let (bus, mut events) = meeting.start("a");
    soon(bus.subscribe(channels(&["up"]))).await.unwrap();
    for round in 0..5 {
        let (other, mut heard) = meeting.start("b");
        soon(other.subscribe(channels(&["down"]))).await.unwrap();
        soon(other.watch_up().wait_for(|up| *up)).await.unwrap();
        let text = round.to_string();
        soon(publish(&bus, "down", &text)).await.unwrap();
        soon(publish(&other, "up", &text)).await.unwrap();
        // Who is a successor may be told of a gap; never is something missed without.
        loop {
            match soon(heard.recv()).await.unwrap() {
                redis_adapter::BusEvent::Gap { .. } => {}
                heard => break assert_eq!(heard, message("down", &text)),
            }
        }
        assert_eq!(soon(events.recv()).await, Some(message("up", &text)));
        drop(other);
        next_gap(&mut events).await;
    }
}

#[tokio::test]
async fn sockets_that_the_dead_left_are_nobody() {
    let meeting = Meeting::new();
    for name in ["a", "dead", "b.tmp"] {
        drop(UnixListener::bind(meeting.socket(name)).unwrap());
    }
    std::fs::write(meeting.socket("file"), "").unwrap();
    let (bus, _events) = meeting.start("a");
    soon(bus.watch_up().wait_for(|up| *up)).await.unwrap();
    soon(bus.subscribe(channels(&["a"]))).await.unwrap();
    soon(bus.close()).await;
    assert!(!meeting.socket("a").exists(), "who leaves takes it away");
}

#[tokio::test]
async fn what_cannot_be_carried_is_refused() {
    let meeting = Meeting::new();
    for name in ["", ".", "a/b", "ä", &"x".repeat(65)] {
        assert!(PeerBus::start(meeting.options(name)).is_err(), "{name:?}");
    }
    let (bus, mut events) = meeting.start("a");
    soon(bus.subscribe(channels(&["a"]))).await.unwrap();
    let large = Bytes::from(vec![0; 16 * 1024 * 1024]);
    let refused = soon(bus.publish("a".to_owned(), large)).await;
    assert!(matches!(refused, Err(BusError::Refused(_))), "{refused:?}");
    let long = "x".repeat(65_536);
    let refused = soon(bus.publish(long.clone(), Bytes::new())).await;
    assert!(matches!(refused, Err(BusError::Refused(_))), "{refused:?}");
    assert!(soon(bus.subscribe(vec![long])).await.is_err());
    soon(publish(&bus, "a", "x")).await.unwrap();
    assert_eq!(soon(events.recv()).await, Some(message("a", "x")));
    soon(bus.close()).await;
    assert_eq!(soon(publish(&bus, "a", "x")).await, Err(BusError::Closed));
}

const HELLO: u8 = 1;
const SUBSCRIBE: u8 = 2;
const MARK: u8 = 4;
const REACHED: u8 = 5;
const MESSAGE: u8 = 6;
const MISSED: u8 = 7;
const ALIVE: u8 = 9;

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32 + 1).to_le_bytes().to_vec();
    frame.push(kind);
    frame.extend_from_slice(body);
    frame
}

fn hello(name: &str) -> Vec<u8> {
    let mut body = vec![1];
    body.extend_from_slice(&0_u64.to_le_bytes());
    body.extend_from_slice(name.as_bytes());
    frame(HELLO, &body)
}

fn subscribe(channel: &str) -> Vec<u8> {
    let mut body = (channel.len() as u16).to_le_bytes().to_vec();
    body.extend_from_slice(channel.as_bytes());
    frame(SUBSCRIBE, &body)
}

fn number(kind: u8, number: u64) -> Vec<u8> {
    frame(kind, &number.to_le_bytes())
}

/// A process whose bus is played by the test.
struct Played {
    listener: UnixListener,
    name: String,
}

impl Played {
    fn bind(meeting: &Meeting, name: &str) -> Self {
        Self {
            listener: UnixListener::bind(meeting.socket(name)).unwrap(),
            name: name.to_owned(),
        }
    }

    /// The stream on which the bus writes.
    async fn accept(&self) -> UnixStream {
        soon(self.listener.accept()).await.unwrap().0
    }

    /// A stream to the bus with that socket, with a hello on it.
    async fn connect(&self, socket: &Path) -> UnixStream {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream.write_all(&hello(&self.name)).await.unwrap();
        stream
    }
}

/// The next frame that is no sign of life.
async fn next_frame(stream: &mut UnixStream) -> (u8, Vec<u8>) {
    loop {
        let length = soon(stream.read_u32_le()).await.unwrap();
        let mut body = vec![0; length as usize];
        soon(stream.read_exact(&mut body)).await.unwrap();
        if body[0] != ALIVE {
            return (body[0], body.split_off(1));
        }
    }
}

/// Reads up to a frame of this kind; returns it.
async fn until(stream: &mut UnixStream, kind: u8) -> Vec<u8> {
    loop {
        let (next, body) = next_frame(stream).await;
        if next == kind {
            return body;
        }
    }
}

#[tokio::test]
async fn who_does_not_read_misses_messages_is_told_so_and_holds_nobody_up() {
    let meeting = Meeting::new();
    let slow = Played::bind(&meeting, "slow");
    let mut options = meeting.options("a");
    options.max_waiting_publishes = 10;
    let (bus, _events) = PeerBus::start(options).unwrap();
    let (quick, mut heard) = meeting.start("quick");
    soon(quick.subscribe(channels(&["c"]))).await.unwrap();
    let mut from_bus = slow.accept().await;
    let mut to_bus = slow.connect(&meeting.socket("a")).await;
    to_bus.write_all(&subscribe("c")).await.unwrap();
    to_bus.write_all(&number(MARK, 1)).await.unwrap();
    assert_eq!(until(&mut from_bus, REACHED).await, 1_u64.to_le_bytes());

    // More than its socket takes; one by one, so that `quick` keeps up with a queue of ten.
    let text = "x".repeat(100_000);
    let before = Instant::now();
    for _ in 0..100 {
        soon(publish(&bus, "c", &text)).await.unwrap();
        assert_eq!(soon(heard.recv()).await, Some(message("c", &text)));
    }
    let took = before.elapsed();
    let mut read = 0;
    let since_ns = loop {
        match next_frame(&mut from_bus).await {
            (MESSAGE, _) => read += 1,
            (MISSED, body) => break u64::from_le_bytes(body.try_into().unwrap()),
            (kind, _) => panic!("a frame of kind {kind}"),
        }
    };
    assert!((10..100).contains(&read), "{read} of 100 came");
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    let age = Duration::from(now) - Duration::from_nanos(since_ns);
    assert!(age >= took / 2, "{age:?} ago, of {took:?}");
    assert!(age <= before.elapsed(), "{age:?}");
    // And it is in the middle of things again.
    soon(publish(&bus, "c", "next")).await.unwrap();
    assert!(until(&mut from_bus, MESSAGE).await.ends_with(b"next"));
}

#[tokio::test]
async fn who_does_not_answer_is_not_waited_for_and_what_it_says_later_is_behind_a_gap() {
    let meeting = Meeting::new();
    let frozen = Played::bind(&meeting, "frozen");
    let mut options = meeting.options("a");
    options.answer_timeout = Duration::from_millis(200);
    let (bus, mut events) = PeerBus::start(options).unwrap();
    let mut from_bus = frozen.accept().await;
    let mut to_bus = frozen.connect(&meeting.socket("a")).await;
    let asked = Instant::now();
    soon(bus.watch_up().wait_for(|up| *up)).await.unwrap();
    soon(bus.subscribe(channels(&["c"]))).await.unwrap();
    assert_eq!(events.recv().now_or_never(), None);
    // Who was not waited for once is not waited for again.
    let next = bus.subscribe(channels(&["e"])).now_or_never();
    assert_eq!(next, Some(Ok(())));

    // It comes to itself, and reads that "c" is wanted.
    until(&mut from_bus, SUBSCRIBE).await;
    until(&mut from_bus, SUBSCRIBE).await;
    let mark = until(&mut from_bus, MARK).await;
    to_bus.write_all(&frame(REACHED, &mark)).await.unwrap();
    let since = next_gap(&mut events).await;
    assert!(since >= asked && since <= Instant::now());
    // The next time it answers.
    let subscribed = bus.subscribe(channels(&["d"]));
    let mark = until(&mut from_bus, MARK).await;
    to_bus.write_all(&frame(REACHED, &mark)).await.unwrap();
    soon(subscribed).await.unwrap();
    assert_eq!(events.recv().now_or_never(), None, "no further gap");
}

#[tokio::test]
async fn who_dies_before_it_ever_answered_is_a_gap_too() {
    let meeting = Meeting::new();
    let frozen = Played::bind(&meeting, "frozen");
    let mut options = meeting.options("a");
    options.answer_timeout = Duration::from_millis(100);
    let (bus, mut events) = PeerBus::start(options).unwrap();
    let from_bus = frozen.accept().await;
    soon(bus.subscribe(channels(&["c"]))).await.unwrap();
    assert_eq!(events.recv().now_or_never(), None);
    drop((frozen, from_bus));
    next_gap(&mut events).await;
}

#[tokio::test]
async fn who_says_late_what_it_wants_is_told_what_it_missed_meanwhile() {
    let meeting = Meeting::new();
    let late = Played::bind(&meeting, "late");
    let (bus, _events) = meeting.start("a");
    let mut from_bus = late.accept().await;
    let mut to_bus = late.connect(&meeting.socket("a")).await;
    soon(publish(&bus, "c", "early")).await.unwrap();
    to_bus.write_all(&subscribe("c")).await.unwrap();
    to_bus.write_all(&number(MARK, 5)).await.unwrap();
    until(&mut from_bus, REACHED).await;
    let (kind, _) = next_frame(&mut from_bus).await;
    assert_eq!(kind, MISSED);
    soon(publish(&bus, "c", "now")).await.unwrap();
    let (kind, body) = next_frame(&mut from_bus).await;
    assert_eq!((kind, body.ends_with(b"now")), (MESSAGE, true));
}

#[tokio::test]
async fn who_speaks_something_else_is_let_go_and_nobody_else_notices() {
    let meeting = Meeting::new();
    let (bus, mut events) = meeting.start("a");
    let (other, mut heard) = meeting.start("b");
    soon(other.subscribe(channels(&["c"]))).await.unwrap();
    let longest = u32::MAX.to_le_bytes();
    let bad: [(&str, Vec<u8>); 7] = [
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("too long", longest.to_vec()),
        ("empty", vec![0; 4]),
        ("no hello", number(MARK, 1)),
        ("another version", frame(HELLO, b"\x07aaaaaaaab")),
        ("a bad name", hello("../b")),
        ("our own name", hello("a")),
    ];
    for (what, bytes) in bad {
        let mut stream = UnixStream::connect(meeting.socket("a")).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        // A reset is an end, too.
        let _ = soon(stream.read_to_end(&mut rest)).await;
        assert!(rest.is_empty(), "{what}: nothing is said on it");
    }
    assert_eq!(
        events.recv().now_or_never(),
        None,
        "no gap: they told nothing"
    );
    // In the middle of a stream, it counts as the death of who wrote it.
    let rude = Played::bind(&meeting, "rude");
    let mut to_bus = rude.connect(&meeting.socket("a")).await;
    to_bus.write_all(&[1, 0, 0, 0, 99]).await.unwrap();
    next_gap(&mut events).await;
    soon(publish(&bus, "c", "x")).await.unwrap();
    assert_eq!(soon(heard.recv()).await, Some(message("c", "x")));
}
