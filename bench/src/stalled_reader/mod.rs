//! One user is written to and does not read: what that costs its worker and the others, and what it
//! finds when it is back.

mod history;
mod record;

use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::client::chat::{Auth, Event, Session, Transport, User, log_in};
use crate::client::packet::{self, Packet};
use crate::client::target::Target;
use crate::client::websocket::WebSocket;
use crate::clock;
use crate::correspondence::{Correspondent, Due, Ledger, Letter, letter_of, write_steadily};
use crate::kept::keep;
use crate::memory::{Memory, peaks};
use crate::proc::Role;
use crate::progress::Progress;
use crate::server::{Kind, Programs, Server, ServerSpec};
use crate::server_end::ServerEnd;
use crate::side_by_side::{Machine, order};
use crate::tally::Latencies;
use history::{BySender, compare, read_conversation, read_list};
use record::{Outcome, Reader, Record, Results, Returned, table};

const WORKERS: u16 = 4;
const STORES: [Kind; 2] = [Kind::Embedded, Kind::Redis];
/// The user who is written to.
const READER: u32 = 0;
/// Users who write to it, from 1 on.
const SENDERS: u32 = 20;
const FIRST_BYSTANDER: u32 = 1 + SENDERS;
/// Users who write to each other, in pairs.
const BYSTANDERS: u32 = 40;
/// Messages a second to the reader.
const READER_RATE: f64 = 1_000.0;
/// Messages a second between bystanders.
const BYSTANDER_RATE: f64 = 200.0;
/// Bytes of a message's content.
const CONTENT: usize = 100;
/// `SO_RCVBUF` of the reader; by itself the kernel would take megabytes that nobody reads.
const RECEIVE_BUFFER: u32 = 16 * 1024;
/// In this time before the measured one all read.
const BEFORE: Duration = Duration::from_secs(10);
/// For so long messages go on when the reader is back.
const RETURN: Duration = Duration::from_secs(5);
/// Between two looks whether the server has closed the reader's connection: nothing tells.
const LOOK: Duration = Duration::from_millis(50);
/// Between two looks at what the kernel holds: each reads its table of all connections, a millisecond.
const LOOK_AT_KERNEL: Duration = Duration::from_secs(1);
/// How long acks are waited for in the end.
const PATIENCE: Duration = Duration::from_secs(60);
/// In this time after the last ack comes what was acked, and what comes twice.
const LATE: Duration = Duration::from_secs(2);

/// What to measure.
#[derive(Debug)]
pub(crate) struct StalledReader {
    pub(crate) programs: Programs,
    pub(crate) rounds: u32,
    /// How long the reader stalls.
    pub(crate) time: Duration,
    /// Where the measurements are kept.
    pub(crate) save: PathBuf,
}

impl StalledReader {
    /// Measures with a reader that reads and one that stalls, on both stores in turns; keeps all and
    /// prints a table.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let turns = STORES.map(|store| [(store, Reader::Reads), (store, Reader::Stalls)]);
        let turns = turns.concat();
        let progress = Progress::new(u64::from(self.rounds) * turns.len() as u64);
        let mut results = Results {
            machine: Machine::look(&self.programs),
            seconds: self.time.as_secs_f64(),
            records: Vec::new(),
        };
        for round in 0..self.rounds {
            for (store, reader) in order(&turns, round) {
                let what = format!("round {}, {store:?}, {reader:?}", round + 1);
                progress.step(what.clone());
                let outcome = self.one(store, reader).await;
                let outcome = outcome.with_context(|| what.clone())?;
                progress.line(&format!("{what}: {}", outcome.brief()));
                results.records.push(Record {
                    round,
                    store,
                    outcome,
                });
                keep(&results, &self.save)?;
                progress.step_done();
            }
        }
        drop(progress);
        print!("{}", table(&results, &STORES)?);
        Ok(())
    }

    async fn one(&self, store: Kind, reader: Reader) -> anyhow::Result<Outcome> {
        let spec = ServerSpec {
            kind: store,
            workers: WORKERS,
        };
        let server = Server::start(spec, &self.programs, None).await?;
        let ledger = Rc::new(Ledger::default());
        let mut clients = JoinSet::new();
        let crowd = Crowd::log_in(&server, &ledger, &mut clients).await?;
        let outcome = self.measure(reader, &server, &ledger, crowd).await?;
        clients.shutdown().await;
        server.stop().await?;
        Ok(outcome)
    }

    async fn measure(
        &self,
        reader: Reader,
        server: &Server,
        ledger: &Rc<Ledger>,
        crowd: Crowd,
    ) -> anyhow::Result<Outcome> {
        let User {
            mut socket,
            session,
            ..
        } = crowd.reader;
        let workers = server.roles.iter().find(|role| role.name == "workers");
        let workers = workers.map(Role::pids).unwrap_or_default();
        let end = ServerEnd::find(socket.local_address()?, &workers)
            .context("no worker has the reader's connection")?;

        let start = clock::now();
        let begin = start + BEFORE.as_nanos() as u64;
        let until = begin + self.time.as_nanos() as u64;
        let load_time = match reader {
            Reader::Reads => BEFORE + self.time,
            Reader::Stalls => BEFORE + self.time + RETURN,
        };
        let load = tokio::task::spawn_local(load(ledger.clone(), crowd.writers, start, load_time));

        let mut note = |id: &str| ledger.delivered(letter_of(id), READER, clock::now());
        read(&mut socket, &mut note, wait_until(begin)).await?;
        let memory_before = Memory::of(end.pid);
        // Whatever the reader does, it is looked at in the same way: looks take time of the process
        // that measures.
        let looks = watch(&end, begin, until);
        let (seen, peak) = match reader {
            Reader::Reads => {
                let reads = read(&mut socket, &mut note, looks);
                let (seen, peak) = peaks(&[end.pid], reads).await;
                (seen?, peak)
            }
            Reader::Stalls => peaks(&[end.pid], looks).await,
        };
        let returned = match reader {
            Reader::Reads => {
                read(&mut socket, &mut note, load).await???;
                None
            }
            Reader::Stalls => {
                drop(socket);
                let target = Rc::new(Target::new(server.address, 1));
                let back = come_back(&target, &session, &crowd.senders, ledger, load).await;
                Some(back.context("the reader, back again")?)
            }
        };

        let letters = ledger.letters();
        let aside = || {
            letters
                .iter()
                .filter(|letter| letter.from >= FIRST_BYSTANDER)
        };
        Ok(Outcome {
            reader,
            bystanders_before: latencies(aside(), start..begin).summary(),
            bystanders: latencies(aside(), begin..until).summary(),
            memory_before,
            memory_peak: peak[0],
            cut_seconds: seen.cut_seconds,
            unsent_max: seen.unsent_max,
            returned,
            bystanders_lost: aside()
                .filter(|letter| letter.acked.is_some() && letter.deliveries == 0)
                .count() as u64,
            bystanders_doubled: aside()
                .map(|letter| u64::from(letter.deliveries.saturating_sub(1)))
                .sum(),
            verdict: ledger.verdict(),
        })
    }
}

/// All users, logged in.
struct Crowd {
    reader: User,
    /// The user ids of the senders, from the first one on.
    senders: Vec<String>,
    /// The channels by which users are told what to write, by their numbers; nobody hears the reader's.
    writers: Vec<mpsc::UnboundedSender<Due>>,
}

impl Crowd {
    async fn log_in(
        server: &Server,
        ledger: &Rc<Ledger>,
        clients: &mut JoinSet<()>,
    ) -> anyhow::Result<Crowd> {
        let target = Rc::new(Target::new(server.address, 0));
        let small = Rc::new(Target::new(server.address, 2).with_receive_buffer(RECEIVE_BUFFER));
        let auth = |number| Auth::Username(format!("user {number}"));
        let reader = log_in(&small, &auth(READER), Transport::Websocket, |_| {}).await?;
        let mut others = Vec::new();
        for number in 1..FIRST_BYSTANDER + BYSTANDERS {
            others.push(log_in(&target, &auth(number), Transport::Websocket, |_| {}).await?);
        }
        let all = std::iter::once(&reader).chain(&others);
        let addresses: Rc<[String]> = all.map(|user| user.session.user_id.clone()).collect();
        let content: Rc<str> = "x".repeat(CONTENT).into();
        let mut writers = vec![mpsc::unbounded_channel().0];
        for (number, user) in (1..).zip(others) {
            let (writer, outgoing) = mpsc::unbounded_channel();
            writers.push(writer);
            let user = Correspondent::new(ledger, number, user, &addresses, &content);
            clients.spawn_local(user.serve(outgoing));
        }
        Ok(Crowd {
            reader,
            senders: addresses[1..=SENDERS as usize].to_vec(),
            writers,
        })
    }
}

/// Who writes the letter of that number to the reader.
fn to_reader(count: u32) -> (u32, u32) {
    (1 + count % SENDERS, READER)
}

/// Which bystander writes the letter of that number to its partner.
fn aside(count: u32) -> (u32, u32) {
    let from = count % BYSTANDERS;
    (FIRST_BYSTANDER + from, FIRST_BYSTANDER + (from ^ 1))
}

/// Has all letters written, and waits until they are acked.
async fn load(
    ledger: Rc<Ledger>,
    writers: Vec<mpsc::UnboundedSender<Due>>,
    start: u64,
    time: Duration,
) -> anyhow::Result<()> {
    tokio::try_join!(
        write_steadily(&ledger, READER_RATE, start, time, to_reader, &writers),
        write_steadily(&ledger, BYSTANDER_RATE, start, time, aside, &writers),
    )?;
    ledger.all_acked(PATIENCE).await;
    tokio::time::sleep(LATE).await;
    Ok(())
}

async fn wait_until(instant: u64) {
    tokio::time::sleep(clock::until(instant)).await;
}

/// Reads what comes, and notes the ids of private messages, until something else is done.
async fn read<T>(
    socket: &mut WebSocket,
    mut note: impl FnMut(&str),
    until: impl Future<Output = T>,
) -> anyhow::Result<T> {
    let mut until = std::pin::pin!(until);
    loop {
        let text = tokio::select! {
            done = &mut until => return Ok(done),
            text = socket.next() => text.context("the reader")?,
        };
        match packet::read(&text) {
            Packet::Event(json) => {
                if let Event::PrivateMessage(message) = Event::read(json)? {
                    note(&message.id);
                }
            }
            Packet::Refused(why) => bail!("the reader was disconnected: {why}"),
            Packet::Close => bail!("the server closed the reader's session"),
            _ => {}
        }
    }
}

/// What could be seen at the server's end of the reader's connection.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Seconds after which it was closed.
    cut_seconds: Option<f64>,
    /// Bytes that the kernel held for the reader, at most.
    unsent_max: u64,
}

/// Looks from `begin` until `until` on the clock.
async fn watch(end: &ServerEnd, begin: u64, until: u64) -> Seen {
    let mut seen = Seen::default();
    let mut look_at_kernel = begin;
    while clock::now() < until {
        if clock::now() >= look_at_kernel {
            seen.unsent_max = seen.unsent_max.max(end.unsent());
            look_at_kernel += LOOK_AT_KERNEL.as_nanos() as u64;
        }
        if seen.cut_seconds.is_none() && !end.is_open() {
            seen.cut_seconds = Some((clock::now() - begin) as f64 / 1e9);
        }
        tokio::time::sleep(LOOK).await;
    }
    seen
}

/// The reader logs in again while messages go on, reads until the load has ended, and then its history.
async fn come_back(
    target: &Rc<Target>,
    session: &Session,
    senders: &[String],
    ledger: &Ledger,
    load: JoinHandle<anyhow::Result<()>>,
) -> anyhow::Result<Returned> {
    let begun = clock::now();
    let auth = Auth::Session(session.session_id.clone());
    let mut list = None;
    let mut events = Vec::new();
    let user = log_in(target, &auth, Transport::Websocket, |event| match event {
        Event::Users(json) => list = Some(read_list(json)),
        Event::PrivateMessage(message) => events.extend(letter_of(&message.id)),
        _ => {}
    });
    let User {
        mut socket,
        repeated,
        ..
    } = user.await?;
    let log_in_seconds = (clock::now() - begun) as f64 / 1e9;
    let list = list.context("no list of users")??;
    read(&mut socket, |id| events.extend(letter_of(id)), load).await???;

    let mut history = BySender::new();
    for sender in senders {
        let conversation = read_conversation(&mut socket, sender).await?;
        history.insert(sender.clone(), conversation);
    }
    let mut acked = BySender::new();
    for (number, letter) in (0..).zip(ledger.letters()) {
        if letter.to == READER && letter.acked.is_some() {
            let sender = &senders[letter.from as usize - 1];
            acked.entry(sender.clone()).or_default().push(number);
        }
    }
    Ok(Returned {
        log_in_seconds,
        log_in_repeated: repeated,
        findings: compare(&acked, &list, &events, &history),
    })
}

/// From when these were due until they came, of those that were due in that time.
fn latencies<'a>(letters: impl Iterator<Item = &'a Letter>, due: Range<u64>) -> Latencies {
    let mut latencies = Latencies::default();
    for letter in letters.filter(|letter| due.contains(&letter.due)) {
        if let Some(delivered) = letter.delivered {
            latencies.record(delivered.saturating_sub(letter.due));
        }
    }
    latencies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_senders_write_to_the_reader_and_bystanders_in_pairs() {
        assert_eq!(to_reader(0), (1, 0));
        assert_eq!(to_reader(SENDERS - 1), (20, 0));
        for count in 0..BYSTANDERS {
            let (from, to) = aside(count);
            assert!(from >= FIRST_BYSTANDER && to >= FIRST_BYSTANDER);
            assert_eq!(aside(to - FIRST_BYSTANDER), (to, from));
        }
    }

    #[test]
    fn latencies_are_of_what_was_due_then() {
        let letter = |due, delivered| Letter {
            due,
            delivered,
            ..Letter::default()
        };
        let letters = [
            letter(1_000_000, Some(9_000_000)),
            letter(2_000_000, Some(4_000_000)),
            letter(2_000_000, None),
        ];
        let summary = latencies(letters.iter(), 2_000_000..3_000_000)
            .summary()
            .unwrap();
        assert_eq!(summary.count, 1);
        assert!((summary.max - 2.0).abs() < 0.01, "{summary:?}");
    }
}
