//! What a run measured, kept as JSON; medians and ranges of its rounds.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::plan::{Figure, Ratio};
use crate::drive::Outcome;
use crate::server::ServerSpec;

/// One scenario on one server in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) round: u32,
    pub(crate) step: String,
    pub(crate) server: ServerSpec,
    pub(crate) outcome: Outcome,
}

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) quick: bool,
    /// Rounds that came to their end.
    pub(crate) rounds: u32,
    pub(crate) records: Vec<Record>,
}

/// The middle of several measurements, with the least and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Spread {
            median,
            least,
            most,
        })
    }

    /// `median (least–most)`.
    pub(crate) fn cell(self, decimals: usize) -> String {
        let Spread {
            median,
            least,
            most,
        } = self;
        let median = thousands(median, decimals);
        if least == most {
            return median;
        }
        let (least, most) = (thousands(least, decimals), thousands(most, decimals));
        format!("{median} ({least}–{most})")
    }

    /// The same of these values, without a range when all look the same; a dash of none.
    pub(crate) fn cell_of(values: impl IntoIterator<Item = f64>, decimals: usize) -> String {
        let factor = 10_f64.powi(decimals as i32);
        let rounded = values
            .into_iter()
            .map(|value| (value * factor).round() / factor);
        Spread::of(rounded).map_or("–".to_owned(), |spread| spread.cell(decimals))
    }
}

/// With commas.
pub(super) fn thousands(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (sign, digits) = text
        .strip_prefix('-')
        .map_or(("", text.as_str()), |digits| ("-", digits));
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut grouped = String::new();
    for (n, digit) in whole.chars().enumerate() {
        if n > 0 && (whole.len() - n).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

impl Results {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Results> {
        let text =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is no result of a run", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string(self)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    pub(crate) fn add(&mut self, round: u32, step: &str, server: ServerSpec, outcome: Outcome) {
        self.records.push(Record {
            round,
            step: step.to_owned(),
            server,
            outcome,
        });
    }

    /// The outcomes of one server in one step, one a round.
    pub(crate) fn outcomes(
        &self,
        step: &str,
        server: ServerSpec,
    ) -> impl Iterator<Item = (u32, &Outcome)> {
        let records = self.records.iter();
        let wanted = records.filter(move |record| record.step == step && record.server == server);
        wanted.map(|record| (record.round, &record.outcome))
    }

    pub(crate) fn spread(
        &self,
        step: &str,
        server: ServerSpec,
        figure: impl Fn(&Outcome) -> Option<f64>,
    ) -> Option<Spread> {
        Spread::of(
            self.outcomes(step, server)
                .filter_map(|(_, outcome)| figure(outcome)),
        )
    }

    /// Of figures of the same round: what the machine did meanwhile is in both.
    pub(crate) fn ratio(&self, ratio: &Ratio) -> Option<Spread> {
        let figures = |server, figure: Figure| -> BTreeMap<u32, f64> {
            self.outcomes(ratio.step, server)
                .map(|(round, outcome)| (round, figure.of(outcome)))
                .collect()
        };
        let to = figures(ratio.to, ratio.figure);
        let of = figures(ratio.of, ratio.figure);
        Spread::of(
            of.iter()
                .filter_map(|(round, of)| Some(of / to.get(round)?)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(thousands(1234567.0, 0), "1,234,567");
        assert_eq!(thousands(999.94, 1), "999.9");
        assert_eq!(thousands(-1000.0, 0), "-1,000");
        assert_eq!(thousands(0.5, 1), "0.5");
    }

    #[test]
    fn medians() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(spread(&[]), None);
        assert_eq!(
            spread(&[3.0, 1.0, 2.0]),
            Some(Spread {
                median: 2.0,
                least: 1.0,
                most: 3.0
            })
        );
        assert_eq!(spread(&[4.0, 1.0]).map(|s| s.median), Some(2.5));
    }
}
