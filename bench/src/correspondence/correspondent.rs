//! One user: sends what is due, sends again what was refused, and notes what comes.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use tokio::sync::mpsc;

use super::ledger::{Answered, Ledger, letter_of};
use crate::client::chat::{Answer, Event, User};
use crate::client::packet::{self, Packet};
use crate::clock;

/// A send that was refused is made again after this time, under the same id, until it is acked.
const RETRY: Duration = Duration::from_secs(1);
/// Letters that one user has without an ack at most: what is due beyond that waits, and is told as
/// late.
const OPEN_MAX: usize = 1_000;
/// A letter that leaves its user later than this is told: the load was not what it should be.
const LATE: Duration = Duration::from_millis(100);

/// A letter that a user is to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    pub(crate) number: u32,
    pub(crate) to: u32,
    /// When, on the clock.
    pub(crate) at: u64,
}

/// A send without an answer.
struct Try {
    letter: Due,
    asked: u64,
    first: bool,
}

/// A user who is logged in.
pub(crate) struct Correspondent {
    ledger: Rc<Ledger>,
    number: u32,
    user: User,
    /// The user ids of all.
    addresses: Rc<[String]>,
    content: Rc<str>,
    next_ack: u64,
    tries: HashMap<u64, Try>,
    /// What was refused, with the time at which it is sent again: that of the first comes first.
    again: VecDeque<(u64, Due)>,
}

impl Correspondent {
    pub(crate) fn new(
        ledger: &Rc<Ledger>,
        number: u32,
        user: User,
        addresses: &Rc<[String]>,
        content: &Rc<str>,
    ) -> Correspondent {
        Correspondent {
            ledger: ledger.clone(),
            number,
            user,
            addresses: addresses.clone(),
            content: content.clone(),
            next_ack: 0,
            tries: HashMap::new(),
            again: VecDeque::new(),
        }
    }

    /// Serves until the connection ends, which the ledger is told.
    pub(crate) async fn serve(mut self, outgoing: mpsc::UnboundedReceiver<Due>) {
        if let Err(error) = self.run(outgoing).await {
            self.ledger.disconnected(&error);
        }
    }

    async fn run(&mut self, mut outgoing: mpsc::UnboundedReceiver<Due>) -> anyhow::Result<()> {
        let mut due = Vec::new();
        let mut writing = true;
        loop {
            let open = self.tries.len() + self.again.len();
            let next_again = self.again.front().map(|(at, _)| clock::until(*at));
            tokio::select! {
                text = self.user.socket.next() => self.see(&text?)?,
                count = outgoing.recv_many(&mut due, OPEN_MAX), if writing && open < OPEN_MAX => {
                    // Nothing more is to be written: what comes is still read.
                    writing = count > 0;
                    for letter in due.drain(..) {
                        if clock::now() - letter.at > LATE.as_nanos() as u64 {
                            self.ledger.late();
                        }
                        self.feed(letter, letter.at, true).await?;
                    }
                    self.user.socket.flush().await?;
                }
                () = tokio::time::sleep(next_again.unwrap_or_default()), if next_again.is_some() => {
                    while let Some((at, letter)) = self.next_again() {
                        self.feed(letter, at, false).await?;
                    }
                    self.user.socket.flush().await?;
                }
            }
        }
    }

    /// What is to be sent again by now, with when that was due.
    fn next_again(&mut self) -> Option<(u64, Due)> {
        let (at, _) = self.again.front()?;
        if *at > clock::now() {
            return None;
        }
        self.again.pop_front()
    }

    async fn feed(&mut self, letter: Due, asked: u64, first: bool) -> anyhow::Result<()> {
        let ack = self.next_ack;
        self.next_ack += 1;
        let try_ = Try {
            letter,
            asked,
            first,
        };
        self.tries.insert(ack, try_);
        self.ledger.tried(letter.number);
        let id = Ledger::id(letter.number);
        let (content, recipient) = (&self.content, &self.addresses[letter.to as usize]);
        let packet = format!(
            r#"42{ack}["private message",{{"content":"{content}","to":"{recipient}","id":"{id}"}}]"#
        );
        self.user.socket.feed(packet).await
    }

    fn see(&mut self, text: &str) -> anyhow::Result<()> {
        match packet::read(text) {
            Packet::Ack(ack, json) => self.answered(ack, &Answer::read(json)?),
            Packet::Event(json) => {
                if let Event::PrivateMessage(message) = Event::read(json)? {
                    self.ledger
                        .delivered(letter_of(&message.id), self.number, clock::now());
                }
            }
            Packet::Refused(why) => bail!("disconnected: {why}"),
            Packet::Close => bail!("the server closed the session"),
            _ => {}
        }
        Ok(())
    }

    fn answered(&mut self, ack: u64, answer: &Answer<'_>) {
        let Some(try_) = self.tries.remove(&ack) else {
            self.ledger.answered_twice();
            return;
        };
        let now = clock::now();
        self.ledger.answered(
            try_.letter.number,
            Answered {
                asked: try_.asked,
                at: now,
                first_try: try_.first,
                stored: matches!(answer, Answer::Stored),
            },
        );
        if let Answer::Refused(code) = answer {
            self.ledger.refused_as(code);
            self.again
                .push_back((now + RETRY.as_nanos() as u64, try_.letter));
        }
    }
}
