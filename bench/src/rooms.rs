//! What a message to one of very many rooms costs Redis, by the number of workers; beside what it costs
//! with subscribers to a pattern, of which each hears every room, as JavaScript servers do.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use redis::aio::MultiplexedConnection;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::client::room;
use crate::client::target::Target;
use crate::client::websocket::WebSocket;
use crate::clock;
use crate::kept::keep;
use crate::pace::Pace;
use crate::proc::{self, Role};
use crate::progress::Progress;
use crate::server::{Kind, LoneRedis, Programs, Server, ServerSpec, redis_client};
use crate::side_by_side::{Machine, Spread, order};

/// Rooms of one client; each room has one member.
const ROOMS_EACH: u32 = 250;
/// Characters of a message.
const CONTENT: usize = 100;
/// The same messages before, which are not measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// For how long is measured what goes on without messages.
const IDLE: Duration = Duration::from_secs(8);
/// How long what was published may be on its way in the end.
const LATE: Duration = Duration::from_secs(20);
/// In this time after the last one would come what comes twice.
const TWICE: Duration = Duration::from_millis(300);

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
    /// Where the measurements are kept.
    pub(crate) save: PathBuf,
}

/// A whole run, as it is kept.
#[derive(Debug, Serialize)]
struct Results {
    machine: Machine,
    rooms: u32,
    rate: f64,
    seconds: f64,
    records: Vec<Record>,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
struct Record {
    round: u32,
    way: Way,
    /// Workers, or subscribers of the pattern.
    servers: u16,
    cost: Cost,
}

/// What one message took, without what goes on anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Cost {
    messages: u64,
    /// Subscribers that Redis passed it to.
    receivers: f64,
    redis_bytes: f64,
    redis_micros: f64,
    /// Of all workers together.
    workers_micros: f64,
    /// What goes out of Redis anyway, a second.
    idle_bytes: f64,
    /// What Redis takes anyway, a second.
    idle_micros: f64,
}

/// Who hears the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// The members of rooms, on the workers.
    Rooms,
    /// As many subscribers of a pattern, and nobody else.
    Pattern,
}

impl RoomCost {
    /// Measures round by round, keeps all and prints a table.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let steps = 2 * u64::from(self.rounds) * self.workers.len() as u64;
        let progress = Progress::new(steps);
        let mut results = Results {
            machine: Machine::look(&self.programs),
            rooms: self.rooms,
            rate: self.rate,
            seconds: self.time.as_secs_f64(),
            records: Vec::new(),
        };
        for round in 0..self.rounds {
            for servers in order(&self.workers, round) {
                for way in [Way::Rooms, Way::Pattern] {
                    let what = title(way, servers);
                    progress.step(what.clone());
                    let cost = match way {
                        Way::Rooms => self.with_rooms(servers).await,
                        Way::Pattern => self.with_pattern(servers).await,
                    };
                    let cost = cost.with_context(|| what.clone())?;
                    progress.line(&format!(
                        "round {}, {what}: {:.1} bytes, {:.1} µs",
                        round + 1,
                        cost.redis_bytes,
                        cost.redis_micros
                    ));
                    results.records.push(Record {
                        round,
                        way,
                        servers,
                        cost,
                    });
                    keep(&results, &self.save)?;
                    progress.step_done();
                }
            }
        }
        drop(progress);
        print!("{}", table(&results, &self.workers)?);
        Ok(())
    }

    async fn with_rooms(&self, workers: u16) -> anyhow::Result<Cost> {
        let kind = Kind::Redis;
        let server = Server::start(ServerSpec { kind, workers }, &self.programs, None).await?;
        let socket = server.redis.as_deref().context("no Redis")?;
        let mut publisher = Publisher::open(&redis_client(socket)?, self.rooms).await?;
        let heard = Rc::new(Heard::new(1));
        let mut members = JoinSet::new();
        let target = Target::new(server.address, 0);
        for first in (0..self.rooms).step_by(ROOMS_EACH as usize) {
            let rooms = first..(first + ROOMS_EACH).min(self.rooms);
            let socket = room::enter(&target, rooms.clone().map(name)).await?;
            members.spawn_local(listen(socket, rooms, heard.clone()));
        }
        publisher.expect_spread(workers).await?;
        let cost = self
            .cost(&server.roles, &mut publisher, &heard, &mut members)
            .await?;
        members.shutdown().await;
        server.stop().await?;
        Ok(cost)
    }

    async fn with_pattern(&self, subscribers: u16) -> anyhow::Result<Cost> {
        let server = LoneRedis::start(&self.programs).await?;
        let client = redis_client(&server.socket)?;
        let mut publisher = Publisher::open(&client, self.rooms).await?;
        let heard = Rc::new(Heard::new(subscribers.into()));
        let mut members = JoinSet::new();
        for _ in 0..subscribers {
            let mut subscriber = client.get_async_pubsub().await?;
            subscriber.psubscribe("socket.io#/rooms#*").await?;
            let (heard, all) = (heard.clone(), 0..self.rooms);
            members.spawn_local(async move {
                let mut messages = subscriber.into_on_message();
                while let Some(message) = messages.next().await {
                    heard.message(number_in_packet(message.get_payload_bytes()), &all);
                }
                bail!("Redis closed a connection")
            });
        }
        let cost = self
            .cost(&server.roles, &mut publisher, &heard, &mut members)
            .await?;
        members.shutdown().await;
        server.stop().await?;
        Ok(cost)
    }

    /// What a message costs while `members` listen.
    async fn cost(
        &self,
        roles: &[Role],
        publisher: &mut Publisher,
        heard: &Heard,
        members: &mut JoinSet<anyhow::Result<()>>,
    ) -> anyhow::Result<Cost> {
        let measured = async {
            self.publish(publisher, heard, WARM_UP).await?;
            let before = publisher.reading(roles).await?;
            tokio::time::sleep(IDLE).await;
            let start = publisher.reading(roles).await?;
            self.publish(publisher, heard, self.time).await?;
            let end = publisher.reading(roles).await?;
            tokio::time::sleep(TWICE).await;
            heard.check()?;
            Ok(end.since(&start).cost(&start.since(&before)))
        };
        tokio::select! {
            cost = measured => cost,
            Some(ended) = members.join_next() => match ended? {
                Ok(()) => bail!("a member ended"),
                Err(error) => Err(error.context("a member")),
            },
        }
    }

    /// Publishes to random rooms for that long, and waits until all of it was heard.
    async fn publish(
        &self,
        publisher: &mut Publisher,
        heard: &Heard,
        time: Duration,
    ) -> anyhow::Result<()> {
        let mut pace = Pace::new(self.rate, clock::now(), time)?;
        while let Some((_, due)) = pace.due().await? {
            publisher.publish(due, heard).await?;
        }
        heard.all().await
    }
}

fn title(way: Way, servers: u16) -> String {
    match way {
        Way::Rooms => format!("chat-cluster, {servers} workers"),
        Way::Pattern => format!("{servers} subscribers of a pattern"),
    }
}

/// Medians and ranges as Markdown. Ratios are to the first number of workers in the same round:
/// what the machine did meanwhile is in both.
fn table(results: &Results, servers: &[u16]) -> anyhow::Result<String> {
    let rounds = results.records.iter().map(|record| record.round + 1).max();
    let mut text = String::new();
    writeln!(
        text,
        "A message to one of {} rooms with a member each, {} a second for {} s; median (least–most) of {} rounds; CPU in µs.\n",
        results.rooms,
        results.rate,
        results.seconds,
        rounds.unwrap_or_default()
    )?;
    let first = servers.first().copied().unwrap_or_default();
    writeln!(
        text,
        "| | servers that hear it | bytes out of Redis | to {first} | CPU, Redis | to {first} | CPU, workers together | to {first} | Redis without messages, bytes/s |\n|---|---|---|---|---|---|---|---|---|"
    )?;
    for way in [Way::Rooms, Way::Pattern] {
        for count in servers {
            let cost = |round, count| {
                let mut records = results.records.iter();
                let record = records.find(|record| {
                    record.round == round && record.way == way && record.servers == count
                })?;
                Some(record.cost)
            };
            let rounds = || 0..rounds.unwrap_or_default();
            let cell = |of: fn(&Cost) -> f64, decimals| {
                let costs = rounds().filter_map(|round| cost(round, *count));
                Spread::cell_of(costs.map(|cost| of(&cost)), decimals)
            };
            let ratio = |of: fn(&Cost) -> f64| {
                let ratios = rounds()
                    .filter_map(|round| Some(of(&cost(round, *count)?) / of(&cost(round, first)?)));
                Spread::cell_of(ratios, 2)
            };
            let workers = if way == Way::Rooms {
                let micros = |cost: &Cost| cost.workers_micros;
                [cell(micros, 0), ratio(micros)]
            } else {
                ["–".to_owned(), "–".to_owned()]
            };
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                title(way, *count),
                cell(|cost| cost.receivers, 0),
                cell(|cost| cost.redis_bytes, 0),
                ratio(|cost| cost.redis_bytes),
                cell(|cost| cost.redis_micros, 1),
                ratio(|cost| cost.redis_micros),
                workers[0],
                workers[1],
                cell(|cost| cost.idle_bytes, 0),
            )?;
        }
    }
    Ok(text)
}

/// Publishes, and keeps count of what Redis answers to it.
struct Publisher {
    connection: MultiplexedConnection,
    rooms: Rooms,
    published: u64,
    /// Subscribers reached so far, summed over the messages.
    receivers: u64,
    /// Bytes of all answers so far: Redis counts them as going out, too.
    answers: u64,
}

impl Publisher {
    async fn open(client: &redis::Client, rooms: u32) -> anyhow::Result<Publisher> {
        Ok(Publisher {
            connection: client.get_multiplexed_async_connection().await?,
            rooms: Rooms::new(rooms),
            published: 0,
            receivers: 0,
            answers: 0,
        })
    }

    async fn publish(&mut self, count: u64, heard: &Heard) -> anyhow::Result<()> {
        let mut pipeline = redis::pipe();
        for _ in 0..count {
            let room = self.rooms.next();
            let number = heard.expect(room);
            let room = name(room);
            pipeline
                .cmd("PUBLISH")
                .arg(room::channel(&room))
                .arg(room::packet(&room, &content(number)));
        }
        let reached: Vec<u64> = pipeline.query_async(&mut self.connection).await?;
        self.published += count;
        for receivers in reached {
            self.receivers += receivers;
            self.answers += integer_length(receivers);
        }
        Ok(())
    }

    /// An error when the rooms are not about evenly on so many connections.
    async fn expect_spread(&mut self, workers: u16) -> anyhow::Result<()> {
        let clients: String = redis::cmd("CLIENT")
            .arg("LIST")
            .arg("TYPE")
            .arg("pubsub")
            .query_async(&mut self.connection)
            .await?;
        self.answers += text_length(&clients);
        let channels = channels_of_clients(&clients);
        let fair = u64::from(self.rooms.count / u32::from(workers));
        let with_rooms = channels.iter().filter(|count| **count > fair / 2).count();
        if with_rooms != usize::from(workers) {
            bail!("the rooms are not spread over {workers} workers: {channels:?}");
        }
        Ok(())
    }

    async fn reading(&mut self, roles: &[Role]) -> anyhow::Result<Reading> {
        let info: String = redis::cmd("INFO")
            .arg("stats")
            .query_async(&mut self.connection)
            .await?;
        let out = net_output(&info).context("INFO does not say what went out")?;
        let usage = proc::usage(roles);
        let cpu = |role: &str| usage.get(role).map_or(0.0, |usage| usage.cpu_micros);
        let reading = Reading {
            seconds: clock::now() as f64 / 1e9,
            messages: self.published,
            receivers: self.receivers,
            redis_bytes: out.saturating_sub(self.answers),
            redis_micros: cpu("Redis"),
            workers_micros: cpu("workers"),
        };
        // Not in what it says itself.
        self.answers += text_length(&info);
        Ok(reading)
    }
}

/// Bytes of Redis's answer that is a number.
fn integer_length(number: u64) -> u64 {
    format!(":{number}\r\n").len() as u64
}

/// Bytes of Redis's answer that is a text.
fn text_length(text: &str) -> u64 {
    format!("${}\r\n{text}\r\n", text.len()).len() as u64
}

fn net_output(info: &str) -> Option<u64> {
    proc::field(info, "total_net_output_bytes:").map(|bytes| bytes as u64)
}

/// How many channels each client in the list hears.
fn channels_of_clients(list: &str) -> Vec<u64> {
    let channels = |line: &str| {
        let mut fields = line.split_whitespace();
        fields
            .find_map(|field| field.strip_prefix("sub="))?
            .parse()
            .ok()
    };
    list.lines().filter_map(channels).collect()
}

/// What was taken up to a moment, or in a time.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    seconds: f64,
    messages: u64,
    receivers: u64,
    /// Without the answers to who measures.
    redis_bytes: u64,
    redis_micros: f64,
    workers_micros: f64,
}

impl Reading {
    fn since(&self, before: &Reading) -> Reading {
        Reading {
            seconds: self.seconds - before.seconds,
            messages: self.messages - before.messages,
            receivers: self.receivers - before.receivers,
            redis_bytes: self.redis_bytes - before.redis_bytes,
            redis_micros: self.redis_micros - before.redis_micros,
            workers_micros: self.workers_micros - before.workers_micros,
        }
    }

    /// For each message, less what a time without messages says goes on anyway.
    fn cost(&self, idle: &Reading) -> Cost {
        let messages = self.messages as f64;
        let each =
            |took: f64, idle_part: f64| (took - idle_part * self.seconds / idle.seconds) / messages;
        Cost {
            messages: self.messages,
            receivers: self.receivers as f64 / messages,
            redis_bytes: each(self.redis_bytes as f64, idle.redis_bytes as f64),
            redis_micros: each(self.redis_micros, idle.redis_micros),
            workers_micros: each(self.workers_micros, idle.workers_micros),
            idle_bytes: idle.redis_bytes as f64 / idle.seconds,
            idle_micros: idle.redis_micros / idle.seconds,
        }
    }
}

/// Which messages have arrived, and where.
struct Heard {
    /// How often each is to arrive.
    times: u32,
    /// By the number of a message, its room and how often it has arrived.
    messages: RefCell<Vec<(u32, u32)>>,
    arrived: Cell<u64>,
    /// With who is not in the room, or not to be read.
    astray: Cell<u64>,
    more: Notify,
}

impl Heard {
    fn new(times: u32) -> Heard {
        Heard {
            times,
            messages: RefCell::default(),
            arrived: Cell::new(0),
            astray: Cell::new(0),
            more: Notify::new(),
        }
    }

    /// A message to that room comes; gives its number.
    fn expect(&self, room: u32) -> u32 {
        let mut messages = self.messages.borrow_mut();
        messages.push((room, 0));
        messages.len() as u32 - 1
    }

    /// One has arrived where these `rooms` are heard.
    fn message(&self, number: Option<u32>, rooms: &Range<u32>) {
        let mut messages = self.messages.borrow_mut();
        let message = number.and_then(|number| messages.get_mut(number as usize));
        match message {
            Some((room, times)) if rooms.contains(room) => *times += 1,
            _ => self.astray.set(self.astray.get() + 1),
        }
        self.arrived.set(self.arrived.get() + 1);
        self.more.notify_one();
    }

    /// Waits until as many have arrived as were expected.
    async fn all(&self) -> anyhow::Result<()> {
        let count = self.messages.borrow().len() as u64 * u64::from(self.times);
        let all = async {
            while self.arrived.get() < count {
                self.more.notified().await;
            }
        };
        if tokio::time::timeout(LATE, all).await.is_err() {
            self.check()?;
        }
        Ok(())
    }

    /// An error unless each has arrived where and as often as it should.
    fn check(&self) -> anyhow::Result<()> {
        let messages = self.messages.borrow();
        let times = || messages.iter().map(|(_, times)| *times);
        let lost: u32 = times().map(|times| self.times.saturating_sub(times)).sum();
        let doubled: u32 = times().map(|times| times.saturating_sub(self.times)).sum();
        let astray = self.astray.get();
        if lost > 0 || doubled > 0 || astray > 0 {
            let all = messages.len();
            bail!("of {all} messages {lost} were lost, {doubled} doubled, {astray} went astray");
        }
        Ok(())
    }
}

async fn listen(mut socket: WebSocket, rooms: Range<u32>, heard: Rc<Heard>) -> anyhow::Result<()> {
    loop {
        let text = socket.next().await?;
        // What else comes is an event, too, and would be one too many.
        heard.message(number_in_event(&text), &rooms);
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

/// Digits of a message's number, with which its content begins.
const DIGITS: usize = 8;
/// Where the content begins in a packet.
const CONTENT_AT: usize = 39;

/// The content of the message of that number.
fn content(number: u32) -> String {
    format!("{number:0DIGITS$}{:x<1$}", "", CONTENT - DIGITS)
}

/// Which message that packet is.
fn number_in_packet(packet: &[u8]) -> Option<u32> {
    let digits = packet.get(CONTENT_AT..CONTENT_AT + DIGITS)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Which message that event is, as a client gets it.
fn number_in_event(text: &str) -> Option<u32> {
    let content = text.strip_prefix(room::EVENT)?;
    content.get(..DIGITS)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_known_again() {
        assert_eq!(
            number_in_packet(&room::packet("room", &content(12_345))),
            Some(12_345)
        );
        assert_eq!(number_in_packet(b"short"), None);
        let event = r#"42/rooms,["MSG_TO_CLIENTS","00012345xx"]"#;
        assert_eq!(number_in_event(event), Some(12_345));
        assert_eq!(number_in_event(r#"42/rooms,["MSG_TO_CLIENTS",5]"#), None);
        assert_eq!(number_in_event(r#"42/rooms,["else","00012345"]"#), None);
    }

    #[test]
    fn rooms_come_in_no_order_and_all_of_them() {
        let mut rooms = Rooms::new(50);
        let some: Vec<u32> = (0..1000).map(|_| rooms.next()).collect();
        assert!(some.iter().all(|room| *room < 50));
        assert!((0..50).all(|room| some.contains(&room)));
    }

    #[test]
    fn what_is_lost_doubled_or_astray_is_found() {
        let arrivals: [(&[(u32, u32)], &str); 4] = [
            (&[(0, 3), (1, 4)], ""),
            (&[(0, 3)], "1 were lost, 0 doubled, 0 went"),
            // As many as there should be.
            (&[(0, 3), (0, 3)], "1 were lost, 1 doubled, 0 went"),
            (&[(0, 3), (1, 9)], "1 were lost, 0 doubled, 1 went"),
        ];
        for (arrivals, expected) in arrivals {
            let heard = Heard::new(1);
            assert_eq!([heard.expect(3), heard.expect(4)], [0, 1]);
            for (number, room) in arrivals {
                heard.message(Some(*number), &(*room..*room + 1));
            }
            let found = heard
                .check()
                .map_or_else(|e| e.to_string(), |()| String::new());
            assert!(found.contains(expected), "{found}");
            assert_eq!(found.is_empty(), expected.is_empty(), "{found}");
        }
        let heard = Heard::new(0);
        heard.message(None, &(0..1));
        assert!(heard.check().is_err());
    }

    #[test]
    fn redis_answers() {
        assert_eq!(integer_length(1), 4);
        assert_eq!(integer_length(10), 5);
        assert_eq!(
            text_length("twelve bytes"),
            "$12\r\ntwelve bytes\r\n".len() as u64
        );
        let info = "# Stats\r\ntotal_net_input_bytes:5\r\ntotal_net_output_bytes:77\r\n";
        assert_eq!(net_output(info), Some(77));
        assert_eq!(net_output("# Stats\r\n"), None);
        let list = "id=3 name= sub=10004 psub=0\nid=4 name= sub=1 psub=1\n";
        assert_eq!(channels_of_clients(list), [10_004, 1]);
    }

    #[test]
    fn what_goes_on_anyway_is_taken_off() {
        let idle = Reading {
            seconds: 2.0,
            redis_bytes: 200,
            redis_micros: 20.0,
            workers_micros: 0.0,
            ..Reading::default()
        };
        let took = Reading {
            seconds: 10.0,
            messages: 100,
            receivers: 400,
            redis_bytes: 51_000,
            redis_micros: 1_100.0,
            workers_micros: 700.0,
        };
        let expected = Cost {
            messages: 100,
            receivers: 4.0,
            redis_bytes: 500.0,
            redis_micros: 10.0,
            workers_micros: 7.0,
            idle_bytes: 100.0,
            idle_micros: 10.0,
        };
        assert_eq!(took.cost(&idle), expected);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let record = |round, servers, redis_bytes| Record {
            round,
            way: Way::Pattern,
            servers,
            cost: Cost {
                redis_bytes,
                ..Cost::default()
            },
        };
        let results = Results {
            machine: Machine::default(),
            rooms: 1,
            rate: 1.0,
            seconds: 1.0,
            records: vec![
                record(0, 2, 10.0),
                record(0, 4, 20.0),
                record(1, 4, 60.0),
                record(1, 2, 20.0),
            ],
        };
        let table = table(&results, &[2, 4]).unwrap();
        assert!(table.contains("of 2 rounds"), "{table}");
        let row = table
            .lines()
            .find(|line| line.contains("| 4 subscribers"))
            .unwrap();
        assert!(row.contains("| 40 (20–60) | 2.50 (2.00–3.00) |"), "{row}");
    }
}
