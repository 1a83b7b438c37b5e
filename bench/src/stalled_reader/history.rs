//! What a user who comes back is told: the list of its log-in, and the history page by page.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::client::packet::{self, Packet};
use crate::client::websocket::WebSocket;
use crate::correspondence::letter_of;

/// Messages that a page has at most; a shorter one is the oldest.
const PAGE: usize = 200;
/// Times that a page is asked for, a second apart, when the server cannot tell.
const TRIES: u32 = 10;

/// The numbers of letters, by their sender's user id, oldest first.
pub(super) type BySender = BTreeMap<String, Vec<u32>>;

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(rename = "userID")]
    user_id: String,
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

fn numbers(messages: &[Message<'_>]) -> anyhow::Result<Vec<u32>> {
    let number = |message: &Message<'_>| {
        letter_of(&message.id).with_context(|| format!("not a letter: {}", message.id))
    };
    messages.iter().map(number).collect()
}

/// Reads the payload of `users`.
pub(super) fn read_list(json: &str) -> anyhow::Result<BySender> {
    let entries: Vec<Entry<'_>> = serde_json::from_str(json).context("the list of users")?;
    let mut list = BySender::new();
    for entry in entries {
        let numbers = numbers(&entry.messages)?;
        if !numbers.is_empty() {
            list.insert(entry.user_id, numbers);
        }
    }
    Ok(list)
}

/// Reads the whole conversation with a user.
pub(super) async fn read_conversation(
    socket: &mut WebSocket,
    with: &str,
) -> anyhow::Result<Vec<u32>> {
    let mut pages: Vec<Vec<u32>> = Vec::new();
    let mut before = serde_json::Value::Null;
    loop {
        let request =
            serde_json::json!(["messages", {"with": with, "before": before, "limit": PAGE}]);
        let answer = ask(socket, &request).await?;
        let [messages]: [Vec<Message<'_>>; 1] =
            serde_json::from_str(&answer).with_context(|| format!("a page: {answer:.100}"))?;
        if let Some(oldest) = messages.first() {
            before = oldest.id.as_ref().into();
        }
        let is_last = messages.len() < PAGE;
        pages.push(numbers(&messages)?);
        if is_last {
            pages.reverse();
            return Ok(pages.concat());
        }
    }
}

/// The answer to an event. Other events that come meanwhile are not looked at.
async fn ask(socket: &mut WebSocket, event: &serde_json::Value) -> anyhow::Result<String> {
    for _ in 0..TRIES {
        socket.send(format!("420{event}")).await?;
        let answer = loop {
            let text = socket.next().await?;
            match packet::read(&text) {
                Packet::Ack(0, answer) => break answer.to_owned(),
                Packet::Refused(why) => bail!("disconnected: {why}"),
                Packet::Close => bail!("the server closed the session"),
                _ => {}
            }
        };
        if !answer.contains(r#""code":"unavailable""#) {
            return Ok(answer);
        }
        // As a client would: nothing tells when the store can be asked again.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    bail!("no page after {TRIES} tries")
}

/// What was found when the reader had come back.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Findings {
    /// Letters that were acknowledged to their senders.
    pub(super) acked: u64,
    /// Letters in the list of the log-in.
    pub(super) listed: u64,
    /// Acked, and not in the history.
    pub(super) missing: u64,
    /// In the history once more.
    pub(super) doubled: u64,
    /// In the history behind a later one of the same sender.
    pub(super) out_of_order: u64,
    /// Acked, no older than what the list has of the same sender, and neither in it nor come as an
    /// event.
    pub(super) missing_at_return: u64,
    /// In the list and come as an event, or more often in either.
    pub(super) doubled_at_return: u64,
}

/// Compares what was acked with the list of the log-in, the `events` since then, and the history.
pub(super) fn compare(
    acked: &BySender,
    list: &BySender,
    events: &[u32],
    history: &BySender,
) -> Findings {
    let none = Vec::new();
    let mut findings = Findings {
        acked: acked.values().map(|numbers| numbers.len() as u64).sum(),
        listed: list.values().map(|numbers| numbers.len() as u64).sum(),
        doubled: doubles(history.values().flatten()),
        doubled_at_return: doubles(list.values().flatten().chain(events)),
        ..Findings::default()
    };
    let told: BTreeSet<&u32> = list.values().flatten().chain(events).collect();
    for (sender, acked) in acked {
        let history = history.get(sender).unwrap_or(&none);
        let kept: BTreeSet<&u32> = history.iter().collect();
        let missing = acked.iter().filter(|number| !kept.contains(number));
        findings.missing += missing.count() as u64;
        let behind = history.windows(2).filter(|pair| pair[1] < pair[0]);
        findings.out_of_order += behind.count() as u64;
        // The list has the newest only when there is too much.
        let oldest = list.get(sender).and_then(|numbers| numbers.first());
        let missing = acked
            .iter()
            .filter(|number| oldest.is_none_or(|oldest| *number >= oldest))
            .filter(|number| !told.contains(number));
        findings.missing_at_return += missing.count() as u64;
    }
    findings
}

/// How many come once more.
fn doubles<'a>(numbers: impl Iterator<Item = &'a u32>) -> u64 {
    let mut times: HashMap<u32, u64> = HashMap::new();
    for number in numbers {
        *times.entry(*number).or_default() += 1;
    }
    times.values().map(|times| times - 1).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_sender(letters: &[(&str, &[u32])]) -> BySender {
        let letters = letters.iter();
        letters
            .map(|(sender, numbers)| ((*sender).to_owned(), numbers.to_vec()))
            .collect()
    }

    #[test]
    fn a_list_is_read() {
        let json = r#"[{"userID":"a","username":"A","connected":true,"messages":[
            {"id":"m1","content":"x","from":"a","to":"r","at":1},{"id":"m3","content":"x","from":"a","to":"r","at":2}]},
            {"userID":"r","username":"R","connected":true,"messages":[]}]"#;
        assert_eq!(read_list(json).unwrap(), by_sender(&[("a", &[1, 3])]));
        assert!(read_list("{}").is_err());
    }

    #[test]
    fn all_is_there() {
        let acked = by_sender(&[("a", &[1, 3, 5]), ("b", &[2, 4])]);
        // The list begins with the third; the last one came as an event.
        let list = by_sender(&[("a", &[3]), ("b", &[4])]);
        let expected = Findings {
            acked: 5,
            listed: 2,
            ..Findings::default()
        };
        assert_eq!(compare(&acked, &list, &[5], &acked), expected);
    }

    #[test]
    fn faults_are_told_apart() {
        let acked = by_sender(&[("a", &[1, 3, 5]), ("b", &[2])]);
        let list = by_sender(&[("a", &[1, 5])]);
        let history = by_sender(&[("a", &[3, 1, 1])]);
        let expected = Findings {
            acked: 4,
            listed: 2,
            missing: 2,
            doubled: 1,
            out_of_order: 1,
            missing_at_return: 2,
            doubled_at_return: 2,
        };
        assert_eq!(compare(&acked, &list, &[5, 5], &history), expected);
    }
}
