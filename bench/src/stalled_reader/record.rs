//! What was measured, and its table.

use std::fmt::Write as _;

use serde::Serialize;

use super::history::Findings;
use crate::correspondence::Verdict;
use crate::memory::Memory;
use crate::server::Kind;
use crate::side_by_side::{Machine, Spread};
use crate::tally::Summary;

/// A whole run, as it is kept.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    pub(super) seconds: f64,
    pub(super) records: Vec<Record>,
}

/// One measurement, of a cluster of its own.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Record {
    pub(super) round: u32,
    pub(super) store: Kind,
    pub(super) outcome: Outcome,
}

/// What one user does who is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reader {
    Reads,
    Stalls,
}

/// What was seen meanwhile.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) reader: Reader,
    /// From when a bystander's message was due until it came, in the time before.
    pub(super) bystanders_before: Option<Summary>,
    /// The same in the measured time.
    pub(super) bystanders: Option<Summary>,
    /// Of the reader's worker, at the start of the measured time.
    pub(super) memory_before: Memory,
    /// Its peak in it.
    pub(super) memory_peak: Memory,
    /// Seconds after which the server closed the reader's connection.
    pub(super) cut_seconds: Option<f64>,
    /// Bytes that the kernel held for it, at most; they are in no process's memory.
    pub(super) unsent_max: u64,
    /// What the reader found when it came back.
    pub(super) returned: Option<Returned>,
    pub(super) bystanders_lost: u64,
    pub(super) bystanders_doubled: u64,
    /// Of all; what did not come to a reader that stalls is lost in it.
    pub(super) verdict: Verdict,
}

/// How the reader came back.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Returned {
    pub(super) log_in_seconds: f64,
    /// Tries of the log-in that failed.
    pub(super) log_in_repeated: u32,
    pub(super) findings: Findings,
}

impl Outcome {
    /// For the line that says a measurement is done.
    pub(super) fn brief(&self) -> String {
        let p99 = |summary: &Option<Summary>| summary.map_or(0.0, |summary| summary.p99);
        format!(
            "p99 {:.1} ms, before {:.1}; PSS +{:.0} KiB, anonymous +{:.0}; cut {:?}; returned {:?}; refusals {:?}, {} disconnected",
            p99(&self.bystanders),
            p99(&self.bystanders_before),
            (self.memory_peak - self.memory_before).pss,
            (self.memory_peak - self.memory_before).anonymous,
            self.cut_seconds,
            self.returned,
            self.verdict.refusals,
            self.verdict.disconnected
        )
    }

    /// In MiB.
    fn risen(&self, of: fn(&Memory) -> f64) -> f64 {
        of(&(self.memory_peak - self.memory_before)) / 1024.0
    }

    fn found(&self, of: fn(&Findings) -> u64) -> Option<f64> {
        let returned = self.returned.as_ref()?;
        Some(of(&returned.findings) as f64)
    }
}

/// Both measurements of one round.
struct Pair<'a> {
    reads: &'a Outcome,
    stalls: &'a Outcome,
}

/// A line of the table: what it is, what is aimed at, its decimals, and how it reads from a round.
type Row = (
    &'static str,
    &'static str,
    usize,
    fn(&Pair<'_>) -> Option<f64>,
);

const ROWS: [Row; 25] = [
    (
        "bystanders' p50 while the reader reads, ms",
        "",
        2,
        |pair| Some(pair.reads.bystanders?.p50),
    ),
    ("while it stalls, ms", "", 2, |pair| {
        Some(pair.stalls.bystanders?.p50)
    }),
    (
        "bystanders' p99 while the reader reads, ms",
        "",
        2,
        |pair| Some(pair.reads.bystanders?.p99),
    ),
    ("while it stalls, ms", "", 2, |pair| {
        Some(pair.stalls.bystanders?.p99)
    }),
    ("the latter to the former", "1", 2, |pair| {
        Some(pair.stalls.bystanders?.p99 / pair.reads.bystanders?.p99)
    }),
    (
        "PSS of the reader's worker at the start, MiB",
        "",
        2,
        |pair| Some(pair.stalls.memory_before.pss / 1024.0),
    ),
    ("its rise while the reader reads, MiB", "", 2, |pair| {
        Some(pair.reads.risen(|memory| memory.pss))
    }),
    ("while it stalls, MiB", "", 2, |pair| {
        Some(pair.stalls.risen(|memory| memory.pss))
    }),
    ("what the stalled reader costs, MiB", "< 2", 2, |pair| {
        Some(pair.stalls.risen(|memory| memory.pss) - pair.reads.risen(|memory| memory.pss))
    }),
    (
        "rise of anonymous memory while the reader reads, MiB",
        "",
        2,
        |pair| Some(pair.reads.risen(|memory| memory.anonymous)),
    ),
    ("while it stalls, MiB", "", 2, |pair| {
        Some(pair.stalls.risen(|memory| memory.anonymous))
    }),
    (
        "what the stalled reader costs of it, MiB",
        "< 2",
        2,
        |pair| {
            let anonymous = |outcome: &Outcome| outcome.risen(|memory| memory.anonymous);
            Some(anonymous(pair.stalls) - anonymous(pair.reads))
        },
    ),
    ("what the kernel held for it at most, MiB", "", 2, |pair| {
        Some(pair.stalls.unsent_max as f64 / 1024.0 / 1024.0)
    }),
    ("the server closed its connection after, s", "", 2, |pair| {
        Some(pair.stalls.cut_seconds.unwrap_or(f64::INFINITY))
    }),
    ("log-in when it is back, ms", "", 0, |pair| {
        Some(pair.stalls.returned.as_ref()?.log_in_seconds * 1e3)
    }),
    ("tries of that log-in that failed", "0", 0, |pair| {
        Some(pair.stalls.returned.as_ref()?.log_in_repeated.into())
    }),
    ("messages acked that were for it", "", 0, |pair| {
        pair.stalls.found(|found| found.acked)
    }),
    ("of those in the list of the log-in", "", 0, |pair| {
        pair.stalls.found(|found| found.listed)
    }),
    ("missing in the history", "0", 0, |pair| {
        pair.stalls.found(|found| found.missing)
    }),
    ("doubled in the history", "0", 0, |pair| {
        pair.stalls.found(|found| found.doubled)
    }),
    (
        "out of their sender's order in the history",
        "0",
        0,
        |pair| pair.stalls.found(|found| found.out_of_order),
    ),
    (
        "missing between the list and the events after it",
        "0",
        0,
        |pair| pair.stalls.found(|found| found.missing_at_return),
    ),
    ("doubled there", "0", 0, |pair| {
        pair.stalls.found(|found| found.doubled_at_return)
    }),
    ("bystanders' messages lost or doubled", "0", 0, |pair| {
        let faults = |of: &Outcome| of.bystanders_lost + of.bystanders_doubled;
        Some((faults(pair.reads) + faults(pair.stalls)) as f64)
    }),
    (
        "sends refused or not answered, others disconnected",
        "0",
        0,
        |pair| {
            let faults = |of: &Outcome| {
                let refused: u64 = of.verdict.refusals.values().sum();
                refused + of.verdict.unanswered + of.verdict.disconnected
            };
            Some((faults(pair.reads) + faults(pair.stalls)) as f64)
        },
    ),
];

/// Medians and ranges as Markdown. What compares two measurements compares those of one round.
pub(super) fn table(results: &Results, stores: &[Kind]) -> anyhow::Result<String> {
    let rounds = results.records.iter().map(|record| record.round + 1).max();
    let rounds = rounds.unwrap_or_default();
    let mut text = String::new();
    writeln!(
        text,
        "The reader reads, or stalls, for {} s; median (least–most) of {rounds} rounds.\n",
        results.seconds
    )?;
    let names: String = stores.iter().map(|store| format!(" {store:?} |")).collect();
    writeln!(
        text,
        "| | aim |{names}\n|---|---|{}",
        "---|".repeat(stores.len())
    )?;
    for (what, aim, decimals, figure) in ROWS {
        write!(text, "| {what} | {aim} |")?;
        for store in stores {
            let of = |round, reader| {
                let mut records = results.records.iter();
                let record = records.find(|record| {
                    record.round == round
                        && record.store == *store
                        && record.outcome.reader == reader
                })?;
                Some(&record.outcome)
            };
            let figures = (0..rounds).filter_map(|round| {
                figure(&Pair {
                    reads: of(round, Reader::Reads)?,
                    stalls: of(round, Reader::Stalls)?,
                })
            });
            write!(text, " {} |", Spread::cell_of(figures, decimals))?;
        }
        writeln!(text)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compared_is_of_one_round() {
        let record = |round, reader, peak| Record {
            round,
            store: Kind::Redis,
            outcome: Outcome {
                reader,
                bystanders_before: None,
                bystanders: None,
                memory_before: Memory::default(),
                memory_peak: Memory {
                    pss: peak * 1024.0,
                    anonymous: 0.0,
                },
                cut_seconds: None,
                unsent_max: 0,
                returned: None,
                bystanders_lost: 0,
                bystanders_doubled: 0,
                verdict: Verdict::default(),
            },
        };
        let results = Results {
            machine: Machine::default(),
            seconds: 30.0,
            records: vec![
                record(0, Reader::Reads, 1.0),
                record(0, Reader::Stalls, 2.0),
                record(1, Reader::Stalls, 9.0),
                record(1, Reader::Reads, 5.0),
            ],
        };
        let table = table(&results, &[Kind::Embedded, Kind::Redis]).unwrap();
        let row = |of: &str| {
            table
                .lines()
                .find(|line| line.contains(of))
                .unwrap()
                .to_owned()
        };
        let cost = row("what the stalled reader costs, MiB");
        assert!(cost.ends_with("| < 2 | – | 2.50 (1.00–4.00) |"), "{cost}");
        let cut = row("closed its connection");
        assert!(cut.ends_with("| – | inf |"), "{cut}");
    }
}
