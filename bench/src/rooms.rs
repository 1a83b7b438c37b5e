//! What a message to one of very many rooms costs Redis, by the number of workers; beside what it costs
//! with subscribers to a pattern, of which each hears every room, as JavaScript servers do.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::client::target::Target;
use crate::client::websocket::WebSocket;
use crate::clock;
use crate::pace::Pace;
use crate::proc;
use crate::progress::Progress;
use crate::server::{Kind, Programs, Server, ServerSpec};
use crate::side_by_side::Spread;

/// Rooms of one client; each room has one member.
const ROOMS_EACH: u32 = 250;
/// Joins that one client has under way; the server allows 64.
const JOINS: u32 = 50;
/// Characters of a message.
const CONTENT: usize = 100;
/// Redis's answer to a PUBLISH, `:1\r\n`, which is not a message's.
const ANSWER: f64 = 4.0;
/// How long what was published may be on its way in the end.
const LATE: Duration = Duration::from_secs(20);

/// What to measure.
#[derive(Debug)]
pub(crate) struct RoomCost {
    pub(crate) programs: Programs,
    pub(crate) rounds: u32,
    pub(crate) workers: Vec<u16>,
    pub(crate) rooms: u32,
    /// Messages a second.
    pub(crate) rate: f64,
    pub(crate) time: Duration,
}

/// What one message took.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    redis_micros: f64,
    redis_bytes: f64,
    workers_micros: f64,
}

/// Which stream of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// To the members of rooms on the workers.
    Rooms,
    /// To as many subscribers of a pattern as there are workers.
    Pattern,
}

impl RoomCost {
    /// Measures round by round and prints a table.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let steps = self.rounds as usize * self.workers.len();
        let progress = Progress::new(steps as u64);
        let mut costs: BTreeMap<(Way, u16), Vec<Cost>> = BTreeMap::new();
        for _ in 0..self.rounds {
            for workers in &self.workers {
                for (way, cost) in self.measure(*workers).await? {
                    costs.entry((way, *workers)).or_default().push(cost);
                }
                progress.step_done();
            }
        }
        drop(progress);
        println!(
            "A message to one of {} rooms with a member each, {} a second for {} s; median (least–most) of {} rounds.\n",
            self.rooms,
            self.rate,
            self.time.as_secs(),
            self.rounds
        );
        println!(
            "| | Redis, bytes out | Redis, µs CPU | workers together, µs CPU |\n|---|---|---|---|"
        );
        for ((way, workers), costs) in &costs {
            let what = match way {
                Way::Rooms => format!("chat-cluster, {workers} workers"),
                Way::Pattern => format!("{workers} subscribers of a pattern"),
            };
            println!("{}", row(&what, *way, costs));
        }
        Ok(())
    }

    async fn measure(&self, workers: u16) -> anyhow::Result<Vec<(Way, Cost)>> {
        let kind = Kind::Redis;
        let server = Server::start(ServerSpec { kind, workers }, &self.programs, None).await?;
        let socket = server.redis.clone().context("no Redis")?;
        let client = redis::Client::open(format!("redis+unix://{socket}"))?;
        let mut publisher = client.get_multiplexed_async_connection().await?;

        let heard = Rc::new(Heard::default());
        let mut members = JoinSet::new();
        let target = Rc::new(Target::new(server.address, 0));
        for first in (0..self.rooms).step_by(ROOMS_EACH as usize) {
            let rooms = first..(first + ROOMS_EACH).min(self.rooms);
            let socket = enter(&target, rooms).await?;
            members.spawn_local(listen(socket, heard.clone()));
        }
        let rooms = self
            .cost(&server, &mut publisher, "/rooms", &heard, 1)
            .await?;

        // Nobody of the server has this namespace: only these subscribers hear it.
        let heard = Rc::new(Heard::default());
        for _ in 0..workers {
            let mut subscriber = client.get_async_pubsub().await?;
            subscriber.psubscribe("socket.io#/pattern#*").await?;
            let heard = heard.clone();
            members.spawn_local(async move {
                let mut messages = subscriber.into_on_message();
                while messages.next().await.is_some() {
                    heard.one();
                }
                bail!("Redis closed a connection")
            });
        }
        let times = u64::from(workers);
        let pattern = self
            .cost(&server, &mut publisher, "/pattern", &heard, times)
            .await?;
        members.shutdown().await;
        server.stop().await?;
        Ok(vec![(Way::Rooms, rooms), (Way::Pattern, pattern)])
    }

    /// Publishes to random rooms of `namespace`, and waits until each message was heard so many
    /// `times`. What the server does without messages in the same time is taken off.
    async fn cost(
        &self,
        server: &Server,
        publisher: &mut MultiplexedConnection,
        namespace: &str,
        heard: &Heard,
        times: u64,
    ) -> anyhow::Result<Cost> {
        let idle = Reading::take(server, publisher).await?;
        tokio::time::sleep(self.time / 2).await;
        let start = Reading::take(server, publisher).await?;
        let idle = start.since(&idle);
        let mut pace = Pace::new(self.rate, clock::now(), self.time)?;
        let mut room = Rooms::new(self.rooms);
        let mut sent = 0;
        while let Some((_, due)) = pace.due().await? {
            let mut pipeline = redis::pipe();
            for _ in 0..due {
                let room = name(room.next());
                pipeline
                    .cmd("PUBLISH")
                    .arg(format!("socket.io#{namespace}#{room}#"))
                    .arg(message(namespace, &room))
                    .ignore();
            }
            pipeline.exec_async(publisher).await?;
            sent += due;
        }
        heard.until(sent * times).await?;
        let took = Reading::take(server, publisher).await?.since(&start);
        let idle_part = took.seconds / idle.seconds;
        let sent = sent as f64;
        Ok(Cost {
            redis_micros: (took.redis_micros - idle.redis_micros * idle_part) / sent,
            redis_bytes: (took.redis_bytes - idle.redis_bytes * idle_part) / sent - ANSWER,
            workers_micros: (took.workers_micros - idle.workers_micros * idle_part) / sent,
        })
    }
}

fn row(what: &str, way: Way, costs: &[Cost]) -> String {
    let cell = |of: fn(&Cost) -> f64, decimals| {
        let spread = Spread::of(costs.iter().map(of));
        spread.map_or(String::new(), |spread| spread.cell(decimals))
    };
    let workers = match way {
        Way::Rooms => cell(|cost| cost.workers_micros, 0),
        Way::Pattern => "-".to_owned(),
    };
    format!(
        "| {what} | {} | {} | {workers} |",
        cell(|cost| cost.redis_bytes, 0),
        cell(|cost| cost.redis_micros, 1),
    )
}

/// What was taken up to a moment, or in a time.
struct Reading {
    seconds: f64,
    redis_micros: f64,
    redis_bytes: f64,
    workers_micros: f64,
}

impl Reading {
    async fn take(server: &Server, redis: &mut MultiplexedConnection) -> anyhow::Result<Reading> {
        let info: redis::InfoDict = redis::cmd("INFO").arg("stats").query_async(redis).await?;
        let usage = proc::usage(&server.roles);
        let cpu = |role: &str| usage.get(role).map_or(0.0, |usage| usage.cpu_micros);
        Ok(Reading {
            seconds: clock::now() as f64 / 1e9,
            redis_micros: cpu("Redis"),
            redis_bytes: info
                .get("total_net_output_bytes")
                .context("INFO does not say what went out")?,
            workers_micros: cpu("workers"),
        })
    }

    fn since(&self, before: &Reading) -> Reading {
        Reading {
            seconds: self.seconds - before.seconds,
            redis_micros: self.redis_micros - before.redis_micros,
            redis_bytes: self.redis_bytes - before.redis_bytes,
            workers_micros: self.workers_micros - before.workers_micros,
        }
    }
}

/// How many messages have arrived.
#[derive(Default)]
struct Heard {
    count: Cell<u64>,
    more: Notify,
}

impl Heard {
    fn one(&self) {
        self.count.set(self.count.get() + 1);
        self.more.notify_one();
    }

    /// Waits until exactly so many have.
    async fn until(&self, count: u64) -> anyhow::Result<()> {
        let all = async {
            while self.count.get() < count {
                self.more.notified().await;
            }
        };
        let late = tokio::time::timeout(LATE, all).await.is_err();
        let arrived = self.count.get();
        if late || arrived > count {
            bail!("{arrived} messages arrived, of {count}");
        }
        Ok(())
    }
}

/// Connects to `/rooms` and joins these rooms.
async fn enter(target: &Target, rooms: std::ops::Range<u32>) -> anyhow::Result<WebSocket> {
    let mut socket = WebSocket::open(target, None).await?;
    expect(&mut socket, "0{").await?;
    socket.send("40/rooms,".into()).await?;
    expect(&mut socket, "40/rooms,").await?;
    let mut numbers = rooms.peekable();
    while numbers.peek().is_some() {
        let mut joins = 0;
        for room in numbers.by_ref().take(JOINS as usize) {
            let code = name(room);
            let join = format!(r#"42/rooms,{room}["join",{{"roomCode":"{code}"}}]"#);
            socket.feed(join).await?;
            joins += 1;
        }
        socket.flush().await?;
        for _ in 0..joins {
            let ack = expect(&mut socket, "43/rooms,").await?;
            if !ack.ends_with(r#"[{"ok":true}]"#) {
                bail!("not joined: {ack}");
            }
        }
    }
    Ok(socket)
}

async fn expect(socket: &mut WebSocket, beginning: &str) -> anyhow::Result<String> {
    let text = socket.next().await?.to_string();
    if !text.starts_with(beginning) {
        bail!("{beginning} was expected: {text}");
    }
    Ok(text)
}

async fn listen(mut socket: WebSocket, heard: Rc<Heard>) -> anyhow::Result<()> {
    loop {
        let text = socket.next().await?;
        if text.starts_with("42/rooms,[") {
            heard.one();
        }
    }
}

/// The code of a room.
fn name(room: u32) -> String {
    format!("room_{room:05}")
}

/// Rooms in an order without a pattern, the same in each run.
struct Rooms {
    state: u64,
    count: u32,
}

impl Rooms {
    fn new(count: u32) -> Rooms {
        Rooms { state: 1, count }
    }

    /// A linear congruential generator, with Knuth's constants for 64 bits (MMIX).
    fn next(&mut self) -> u32 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.state >> 33) % u64::from(self.count)) as u32
    }
}

/// An event for one room as `@socket.io/redis-emitter` writes it, in MessagePack.
fn message(namespace: &str, room: &str) -> Vec<u8> {
    let mut out = vec![0x93];
    text(&mut out, "emitter");
    out.push(0x83);
    text(&mut out, "type");
    out.push(2);
    text(&mut out, "data");
    out.push(0x92);
    text(&mut out, "MSG_TO_CLIENTS");
    text(&mut out, &"x".repeat(CONTENT));
    text(&mut out, "nsp");
    text(&mut out, namespace);
    out.push(0x83);
    text(&mut out, "rooms");
    out.push(0x91);
    text(&mut out, room);
    text(&mut out, "flags");
    out.push(0x80);
    text(&mut out, "except");
    out.push(0x90);
    out
}

/// A text of at most 255 bytes.
fn text(out: &mut Vec<u8>, text: &str) {
    match text.len() as u8 {
        short @ ..32 => out.push(0xa0 | short),
        long => out.extend([0xd9, long]),
    }
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_the_emitter_writes() {
        let written = message("/orders", "r");
        let hex: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
        let head = "93a7656d697474657283a47479706502a46461746192ae4d53475f544f5f434c49454e5453d964";
        assert!(hex.starts_with(head), "{hex}");
        let tail = "a36e7370a72f6f726465727383a5726f6f6d7391a172a5666c61677380a665786365707490";
        assert!(hex.ends_with(tail), "{hex}");
    }

    #[test]
    fn rooms_come_in_no_order_and_all_of_them() {
        let mut rooms = Rooms::new(50);
        let some: Vec<u32> = (0..1000).map(|_| rooms.next()).collect();
        assert!(some.iter().all(|room| *room < 50));
        assert!((0..50).all(|room| some.contains(&room)));
    }
}
