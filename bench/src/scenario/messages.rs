//! Private messages between WebSocket clients, with ids and acks. Each client sends to a few
//! others in turn; who got what is compared at the end.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

use super::{Spec, Window};
use crate::client::chat::{Auth, Event, User, log_in};
use crate::client::packet::{self, Packet};
use crate::clock;
use crate::delivery::{Received, Sent, SentByPair, Stamp};
use crate::generator::Link;
use crate::pace::Pace;
use crate::tally::Tally;

/// Others that each client sends to: few, so that there is an order to keep,
/// and not one, so that one worker's clients write to several workers.
const PARTNERS: u32 = 4;
/// A message that comes once more does so within this time after all have come.
const LATE_DOUBLES: Duration = Duration::from_millis(200);

pub(super) async fn run(spec: Rc<Spec>, link: &mut Link) -> anyhow::Result<Tally> {
    let target = spec.target();
    let own = spec.own_clients();
    let (mut waiting, mut begin, mut ids) = (JoinSet::new(), Vec::new(), Vec::new());
    for number in own.clone() {
        let auth = Auth::Username(spec.username("user", number));
        let user = log_in(&target, &auth, spec.transport, |_| {}).await?;
        ids.push(user.session.user_id.clone());
        let (all_there, told) = oneshot::channel();
        begin.push(all_there);
        waiting.spawn_local(wait(number, user, told));
    }
    let everyone = link.exchange(&ids).await?.concat();
    drop(begin);
    let mut users = Vec::new();
    while let Some(user) = waiting.join_next().await {
        users.push(user??);
    }
    users.sort_by_key(|(number, _)| *number);
    // Nobody is written to before all have stopped waiting.
    link.exchange(&()).await?;

    let run = Rc::new(Run {
        number: spec.run,
        measured: Cell::new(spec.warming_up()),
        content: "x".repeat(spec.content as usize),
        window: spec.rate.is_none().then_some(spec.window),
        everyone,
        pending: Cell::new(0),
        changed: Notify::new(),
        state: RefCell::default(),
    });
    let mut clients = JoinSet::new();
    let mut senders = Vec::new();
    for (number, user) in users {
        let (sender, outgoing) = mpsc::unbounded_channel();
        senders.push(sender);
        let client = Client::new(&run, number, user);
        let run = run.clone();
        clients.spawn_local(async move {
            if let Err(error) = client.serve(outgoing).await {
                run.state.borrow_mut().tally.problem(&error);
            }
        });
    }
    run.send(&spec, &senders).await?;
    run.state.borrow_mut().tally.forget_measurements();
    run.measured.set(link.ready(&spec).await?);
    run.send(&spec, &senders).await?;
    run.give_up_on_acks();
    let sent = run.state.borrow().sent.clone();
    let sent = link.exchange(&sent).await?;
    let to_us = expected(&sent, own);
    let all_heard = run.until(|run| run.state.borrow().has_heard(&to_us));
    let _ = tokio::time::timeout(spec.patience, all_heard).await;
    tokio::time::sleep(LATE_DOUBLES).await;
    run.state.borrow_mut().judge(&to_us);
    link.finished().await?;
    Ok(std::mem::take(&mut run.state.borrow_mut().tally))
}

/// A user answers pings until all are there.
async fn wait(
    number: u32,
    mut user: User,
    mut all_there: oneshot::Receiver<()>,
) -> anyhow::Result<(u32, User)> {
    loop {
        tokio::select! {
            packet = user.socket.next() => drop(packet?),
            _ = &mut all_there => return Ok((number, user)),
        }
    }
}

/// By recipient and sender, of what all senders told: what should have come to `own` clients.
fn expected(sent: &[SentByPair], own: std::ops::Range<u32>) -> BTreeMap<(u32, u32), Sent> {
    let pairs = sent
        .iter()
        .flatten()
        .flat_map(|(from, to)| to.iter().map(|(to, sent)| ((*to, *from), sent.clone())));
    pairs.filter(|((to, _), _)| own.contains(to)).collect()
}

/// What all clients of this process share.
struct Run {
    number: u32,
    /// Of what is sent now.
    measured: Cell<Window>,
    content: String,
    /// Messages that a client keeps under way, when there is no rate.
    window: Option<u32>,
    /// The user ids of all clients.
    everyone: Vec<String>,
    /// Messages without an answer, and those that wait to be sent.
    pending: Cell<u64>,
    changed: Notify,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    tally: Tally,
    sent: SentByPair,
    /// By recipient and sender.
    received: HashMap<(u32, u32), Received>,
}

impl Run {
    /// Has messages sent in the window, and waits until they are acknowledged.
    async fn send(
        &self,
        spec: &Spec,
        senders: &[mpsc::UnboundedSender<u64>],
    ) -> anyhow::Result<()> {
        let window = self.measured.get();
        let mut turn = senders.iter().cycle();
        let mut send = |due, messages| {
            for sender in turn.by_ref().take(messages) {
                // A client that is gone was counted as a problem.
                if sender.send(due).is_ok() {
                    self.pending.set(self.pending.get() + 1);
                }
            }
        };
        if let Some(rate) = spec.own_rate() {
            let mut pace = Pace::new(rate, window.from, window.length())?;
            while let Some((due, messages)) = pace.due().await? {
                send(due, messages as usize);
            }
        } else {
            send(clock::now(), senders.len() * spec.window as usize);
            tokio::time::sleep(clock::until(window.until)).await;
        }
        let all_acked = self.until(|run| run.pending.get() == 0);
        let _ = tokio::time::timeout(spec.patience, all_acked).await;
        Ok(())
    }

    async fn until(&self, reached: impl Fn(&Run) -> bool) {
        while !reached(self) {
            self.changed.notified().await;
        }
    }

    /// What has no answer by now may have been delivered or not.
    fn give_up_on_acks(&self) {
        let unanswered = self.pending.get();
        if unanswered > 0 {
            self.state
                .borrow_mut()
                .tally
                .count("not acknowledged", unanswered);
        }
    }
}

impl State {
    fn sent_by(&mut self, from: u32, to: u32) -> &mut Sent {
        self.sent.entry(from).or_default().entry(to).or_default()
    }

    fn has_heard(&self, expected: &BTreeMap<(u32, u32), Sent>) -> bool {
        expected
            .iter()
            .all(|(pair, sent)| match self.received.get(pair) {
                Some(received) => received.complete(sent),
                None => Received::default().complete(sent),
            })
    }

    fn judge(&mut self, expected: &BTreeMap<(u32, u32), Sent>) {
        let nothing = Received::default();
        for (pair, sent) in expected {
            let faults = self.received.get(pair).unwrap_or(&nothing).faults(sent);
            self.tally.count("lost", faults.lost);
            self.tally.count("doubled", faults.doubled);
            self.tally.count("out of order", faults.out_of_order);
        }
    }
}

/// One message without an answer.
struct Pending {
    due: u64,
    to: u32,
    sequence: u32,
}

struct Client {
    run: Rc<Run>,
    number: u32,
    user: User,
    next_ack: u64,
    pending: HashMap<u64, Pending>,
}

impl Client {
    fn new(run: &Rc<Run>, number: u32, user: User) -> Client {
        Client {
            run: run.clone(),
            number,
            user,
            next_ack: 0,
            pending: HashMap::new(),
        }
    }

    /// Sends what is due and reads what comes, until the connection ends. What
    /// was never answered is told as such in `sent`.
    async fn serve(mut self, mut outgoing: mpsc::UnboundedReceiver<u64>) -> anyhow::Result<()> {
        let mut due = Vec::new();
        loop {
            tokio::select! {
                text = self.user.socket.next() => {
                    let text = text.context("a client")?;
                    self.see(&text).await?;
                }
                count = outgoing.recv_many(&mut due, 64) => {
                    if count == 0 {
                        return Ok(());
                    }
                    for due in due.drain(..) {
                        self.feed(due).await?;
                    }
                    self.user.socket.flush().await?;
                }
            }
        }
    }

    async fn feed(&mut self, due: u64) -> anyhow::Result<()> {
        let ack = self.next_ack;
        self.next_ack += 1;
        let count = self.run.everyone.len() as u64;
        // Not oneself; spread, so that partners are on other workers, too.
        let step = 1 + (ack % u64::from(PARTNERS)) * 37 % (count - 1).max(1);
        let to = ((u64::from(self.number) + step) % count) as u32;
        let sequence = {
            let mut state = self.run.state.borrow_mut();
            let sent = state.sent_by(self.number, to);
            sent.count += 1;
            // Until it is acknowledged.
            sent.unacknowledged.insert(sent.count - 1);
            sent.count - 1
        };
        let id = Stamp {
            run: self.run.number,
            from: self.number,
            to,
            sequence,
            due,
        }
        .encode();
        self.pending.insert(ack, Pending { due, to, sequence });
        let (content, recipient) = (&self.run.content, &self.run.everyone[to as usize]);
        let packet = format!(
            r#"42{ack}["private message",{{"content":"{content}","to":"{recipient}","id":"{id}"}}]"#
        );
        self.user.socket.feed(packet).await
    }

    async fn see(&mut self, text: &str) -> anyhow::Result<()> {
        match packet::read(text) {
            Packet::Ack(number, answer) => self.acked(number, answer).await,
            Packet::Event(json) => {
                if let Event::PrivateMessage(message) = Event::read(json)? {
                    self.heard(&message.id);
                }
                Ok(())
            }
            Packet::Refused(why) => anyhow::bail!("disconnected: {why}"),
            _ => Ok(()),
        }
    }

    async fn acked(&mut self, number: u64, answer: &str) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Answer {
            ok: bool,
        }
        let [answer]: [Answer; 1] = serde_json::from_str(answer).context("an ack")?;
        let now = clock::now();
        let run = &self.run;
        {
            let mut state = run.state.borrow_mut();
            let Some(Pending { due, to, sequence }) = self.pending.remove(&number) else {
                state.tally.count("acknowledged twice", 1);
                return Ok(());
            };
            if answer.ok {
                state
                    .sent_by(self.number, to)
                    .unacknowledged
                    .remove(&sequence);
                state.tally.units += u64::from(run.measured.get().contains(now));
                if run.measured.get().contains(due) {
                    state.tally.record("ack", now - due);
                }
            } else {
                state.tally.count("refused", 1);
            }
        }
        if run.window.is_some() && now < run.measured.get().until {
            self.feed(now).await?;
            return self.user.socket.flush().await;
        }
        run.pending.set(run.pending.get() - 1);
        if run.pending.get() == 0 {
            run.changed.notify_one();
        }
        Ok(())
    }

    fn heard(&mut self, id: &str) {
        let Some(stamp) = Stamp::decode(id).filter(|stamp| stamp.run == self.run.number) else {
            return;
        };
        let now = clock::now();
        let mut state = self.run.state.borrow_mut();
        if stamp.to != self.number {
            state.tally.count("misdelivered", 1);
            return;
        }
        state
            .received
            .entry((self.number, stamp.from))
            .or_default()
            .see(stamp.sequence);
        if self.run.measured.get().contains(stamp.due) {
            state
                .tally
                .record("delivery", now.saturating_sub(stamp.due));
        }
        if now >= self.run.measured.get().until {
            drop(state);
            self.run.changed.notify_one();
        }
    }
}
