//! What one outage did, and the table of several.

use std::fmt::Write as _;

use serde::Serialize;

use super::full_rate::{by_second, full_rate_since};
use crate::correspondence::{Answered, Ledger, Verdict};
use crate::memory::Memory;
use crate::side_by_side::{Machine, Spread};

/// Seconds within which a send is to be answered, whatever happens.
const ANSWER_AIM: f64 = 3.0;

/// A whole run, as it is kept.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    pub(super) users: u32,
    pub(super) rate: f64,
    pub(super) frozen_seconds: f64,
    pub(super) records: Vec<Record>,
}

/// The instants of one outage, on the clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instants {
    pub(super) frozen: u64,
    pub(super) thawed: u64,
    /// When the last letter was due.
    pub(super) end: u64,
}

/// One outage.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Record {
    pub(super) verdict: Verdict,
    /// From when a send was due until its answer, at most.
    pub(super) answer_seconds_max: f64,
    /// Sends whose answer took longer than is aimed at.
    pub(super) answered_late: u64,
    /// From when a send was due until its answer, the median of those that the outage met.
    pub(super) answer_seconds_median_frozen: f64,
    /// Acked sends that were first ones, in each second after the thaw.
    pub(super) first_tries_by_second: Vec<u64>,
    /// All acked sends, in each second from the start of the outage.
    pub(super) acked_by_second: Vec<u64>,
    /// Sends that were refused, likewise.
    pub(super) refused_by_second: Vec<u64>,
    /// Whole seconds after the thaw, until the cluster was at full rate for good.
    pub(super) full_rate_seconds: Option<usize>,
    pub(super) first_ack_seconds: Option<f64>,
    pub(super) last_refusal_seconds: Option<f64>,
    /// After the thaw, until the last letter that had been refused was acked.
    pub(super) caught_up_seconds: Option<f64>,
    pub(super) memory: Vec<WorkerMemory>,
}

/// One worker's.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct WorkerMemory {
    pub(super) before: Memory,
    /// From the start of the outage until it is over for everyone.
    pub(super) peak: Memory,
}

impl Record {
    pub(super) fn new(
        ledger: &Ledger,
        at: Instants,
        enough: u64,
        memory: Vec<WorkerMemory>,
    ) -> Record {
        let answers = ledger.answers();
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let whole_seconds = |from: u64| ((at.end - from) / 1_000_000_000) as usize;
        let took = |answer: &Answered| seconds(answer.at.saturating_sub(answer.asked));
        let since_thaw = |instant: u64| seconds(instant - at.thawed);
        let acked = || answers.iter().filter(|answer| answer.stored);
        let refused = || answers.iter().filter(|answer| !answer.stored);
        let first_tries = acked().filter(|answer| answer.first_try);
        let first_tries_by_second = by_second(
            first_tries.map(|answer| answer.at),
            at.thawed,
            whole_seconds(at.thawed),
        );
        let in_outage = answers
            .iter()
            .filter(|answer| answer.at >= at.frozen && answer.asked < at.thawed);
        let letters = ledger.letters();
        let repeated = letters.iter().filter(|letter| letter.refused > 0);
        Record {
            verdict: ledger.verdict(),
            answer_seconds_max: answers.iter().map(took).fold(0.0, f64::max),
            answered_late: answers.iter().filter(|a| took(a) > ANSWER_AIM).count() as u64,
            answer_seconds_median_frozen: Spread::of(in_outage.map(took))
                .map_or(0.0, |spread| spread.median),
            full_rate_seconds: full_rate_since(&first_tries_by_second, enough),
            first_tries_by_second,
            acked_by_second: by_second(
                acked().map(|answer| answer.at),
                at.frozen,
                whole_seconds(at.frozen),
            ),
            refused_by_second: by_second(
                refused().map(|answer| answer.at),
                at.frozen,
                whole_seconds(at.frozen),
            ),
            first_ack_seconds: acked()
                .find(|answer| answer.at >= at.thawed)
                .map(|answer| since_thaw(answer.at)),
            last_refusal_seconds: refused()
                .rfind(|answer| answer.at >= at.thawed)
                .map(|answer| since_thaw(answer.at)),
            caught_up_seconds: repeated
                .filter_map(|letter| letter.acked)
                .max()
                .filter(|acked| *acked >= at.thawed)
                .map(since_thaw),
            memory,
        }
    }

    /// For the line that says a round is done.
    pub(super) fn brief(&self) -> String {
        let verdict = &self.verdict;
        format!(
            "answers within {:.3} s, {:?} refused, full rate after {} s, {} lost, {} doubled, {} disconnected",
            self.answer_seconds_max,
            verdict.refusals,
            self.full_rate_seconds
                .map_or("∞".to_owned(), |s| s.to_string()),
            verdict.lost,
            verdict.doubled,
            verdict.disconnected
        )
    }
}

/// A line of the table: what it is, what is aimed at, and how it reads from a record. What did not
/// happen is infinite.
type Row = (&'static str, &'static str, usize, fn(&Record) -> f64);

const ROWS: [Row; 21] = [
    ("messages", "", 0, |r| r.verdict.letters as f64),
    (
        "longest time from a send to its answer, s",
        "≤ 3",
        3,
        |r| r.answer_seconds_max,
    ),
    ("sends answered later than that", "0", 0, |r| {
        r.answered_late as f64
    }),
    (
        "from a send to its answer in the outage, median, s",
        "",
        3,
        |r| r.answer_seconds_median_frozen,
    ),
    ("sends refused with `unavailable`", "", 0, |r| {
        let unavailable = r.verdict.refusals.get("unavailable");
        unavailable.copied().unwrap_or_default() as f64
    }),
    ("sends refused otherwise", "0", 0, |r| {
        let others = r.verdict.refusals.iter();
        let others = others.filter(|(code, _)| *code != "unavailable");
        others.map(|(_, count)| *count).sum::<u64>() as f64
    }),
    ("messages sent more than once", "", 0, |r| {
        r.verdict.sent_again as f64
    }),
    ("sends never answered", "0", 0, |r| {
        r.verdict.unanswered as f64
    }),
    ("messages not acked in the end", "0", 0, |r| {
        r.verdict.unacked as f64
    }),
    ("first ack after the thaw, s", "", 2, |r| {
        r.first_ack_seconds.unwrap_or(f64::INFINITY)
    }),
    ("last refusal after the thaw, s", "", 2, |r| {
        r.last_refusal_seconds.unwrap_or_default()
    }),
    (
        "full rate again after the thaw, whole seconds",
        "≤ 5",
        0,
        |r| r.full_rate_seconds.map_or(f64::INFINITY, |s| s as f64),
    ),
    (
        "all that was refused is acked after the thaw, s",
        "",
        2,
        |r| r.caught_up_seconds.unwrap_or(f64::INFINITY),
    ),
    ("acked messages missing at their recipient", "0", 0, |r| {
        r.verdict.lost as f64
    }),
    ("doubled at their recipient", "0", 0, |r| {
        r.verdict.doubled as f64
    }),
    (
        "out of their sender's order, of those never refused",
        "0",
        0,
        |r| r.verdict.out_of_order as f64,
    ),
    ("the same with those sent again", "", 0, |r| {
        r.verdict.out_of_order_with_repeated as f64
    }),
    ("clients disconnected", "0", 0, |r| {
        r.verdict.disconnected as f64
    }),
    ("messages that their sender sent late", "0", 0, |r| {
        r.verdict.late as f64
    }),
    ("PSS of all workers before, MiB", "", 1, |r| {
        r.memory.iter().map(|m| m.before.pss).sum::<f64>() / 1024.0
    }),
    ("PSS of all workers, their peaks, MiB", "", 1, |r| {
        r.memory.iter().map(|m| m.peak.pss).sum::<f64>() / 1024.0
    }),
];

/// Medians and ranges as Markdown.
pub(super) fn table(results: &Results) -> anyhow::Result<String> {
    let mut text = String::new();
    writeln!(
        text,
        "Redis stands still for {} s; {} users, {} messages a second; median (least–most) of {} rounds.\n",
        results.frozen_seconds,
        results.users,
        results.rate,
        results.records.len()
    )?;
    writeln!(text, "| | aim | |\n|---|---|---|")?;
    for (what, aim, decimals, figure) in ROWS {
        let cell = Spread::cell_of(results.records.iter().map(figure), decimals);
        writeln!(text, "| {what} | {aim} | {cell} |")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// One letter, of which one send is answered at each of these seconds.
    fn ledger(answers: &[(f64, f64, bool)]) -> Ledger {
        let ledger = Ledger::default();
        let nanos = |seconds: f64| (seconds * SECOND as f64) as u64;
        let number = ledger.write(0, 1, 0);
        for (nth, (asked, at, stored)) in answers.iter().enumerate() {
            ledger.tried(number);
            ledger.answered(
                number,
                Answered {
                    asked: nanos(*asked),
                    at: nanos(*at),
                    first_try: nth == 0,
                    stored: *stored,
                },
            );
        }
        ledger
    }

    #[test]
    fn an_outage_is_told_by_its_instants() {
        let ledger = ledger(&[
            (9.5, 12.5, false),
            (13.5, 16.25, false),
            (17.25, 17.5, true),
        ]);
        let at = Instants {
            frozen: 10 * SECOND,
            thawed: 16 * SECOND,
            end: 20 * SECOND,
        };
        let record = Record::new(&ledger, at, 1, Vec::new());
        assert_eq!(record.answer_seconds_max, 3.0);
        assert_eq!(record.answered_late, 0);
        assert_eq!(record.answer_seconds_median_frozen, 2.875);
        assert_eq!(record.first_tries_by_second, [0; 4]);
        assert_eq!(record.acked_by_second, [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(record.refused_by_second, [0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(record.full_rate_seconds, None);
        assert_eq!(record.first_ack_seconds, Some(1.5));
        assert_eq!(record.last_refusal_seconds, Some(0.25));
        assert_eq!(record.caught_up_seconds, Some(1.5));
    }

    #[test]
    fn what_did_not_happen_is_infinite_in_the_table() {
        let results = Results {
            machine: Machine::default(),
            users: 2,
            rate: 1.0,
            frozen_seconds: 30.0,
            records: vec![Record::default(); 3],
        };
        let table = table(&results).unwrap();
        let row = table
            .lines()
            .find(|line| line.contains("| full rate"))
            .unwrap();
        assert!(row.ends_with("| ≤ 5 | inf |"), "{row}");
    }
}
