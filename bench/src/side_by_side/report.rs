//! The figures as Markdown: ratios first, then a table for each step.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use super::plan::{self, Step};
use super::results::{Results, Spread, thousands};
use crate::drive::Outcome;
use crate::scenario::Scenario;
use crate::server::ServerSpec;
use crate::tally::Summary;

const BEGIN: &str = "<!-- figures: written by `make bench` -->";
const END: &str = "<!-- end of the figures -->";

/// Puts the figures into the page, in place of the earlier ones.
pub(super) fn replace(page: &Path, figures: &str) -> anyhow::Result<()> {
    let text =
        std::fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let place = text
        .split_once(BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = place.with_context(|| {
        format!(
            "{} has no place for figures: {BEGIN} and {END}",
            page.display()
        )
    })?;
    std::fs::write(page, format!("{before}{BEGIN}\n\n{figures}\n{END}{after}"))?;
    Ok(())
}

/// All figures.
pub(super) fn render(steps: &[Step], results: &Results) -> anyhow::Result<String> {
    let mut text = String::new();
    machine(&mut text, results)?;
    ratios(&mut text, results)?;
    for step in steps {
        table(&mut text, step, results)?;
    }
    Ok(text)
}

fn machine(text: &mut String, results: &Results) -> anyhow::Result<()> {
    let machine = &results.machine;
    let versions: Vec<_> = machine
        .versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    writeln!(
        text,
        "Measured on {}: {} cores of {}, {:.0} GiB, Linux {}; {}. Median (least–most) of {} rounds.",
        machine.date,
        machine.cores,
        machine.cpu,
        machine.memory_gib,
        machine.kernel,
        versions.join(", "),
        results.rounds,
    )?;
    Ok(())
}

fn ratios(text: &mut String, results: &Results) -> anyhow::Result<()> {
    writeln!(
        text,
        "\n### Ratios\n\n| what | of | to | ratio |\n|---|---|---|---|"
    )?;
    for ratio in plan::ratios() {
        if let Some(spread) = results.ratio(&ratio) {
            writeln!(
                text,
                "| {} | {} | {} | {} |",
                ratio.what,
                ratio.of,
                ratio.to,
                spread.cell(2)
            )?;
        }
    }
    Ok(())
}

fn micros(spread: Spread) -> String {
    spread.cell(if spread.median < 10.0 { 1 } else { 0 })
}

fn table(text: &mut String, step: &Step, results: &Results) -> anyhow::Result<()> {
    let measured = |server: &&ServerSpec| results.outcomes(step.key, **server).next().is_some();
    let servers: Vec<ServerSpec> = step.servers.iter().filter(measured).copied().collect();
    if servers.is_empty() {
        return Ok(());
    }
    let mut table = Table {
        step: step.key,
        results,
        titles: vec!["server".to_owned()],
        rows: servers
            .iter()
            .map(|server| vec![server.to_string()])
            .collect(),
        servers,
    };
    table.fill(step);
    let unit = step.load.scenario.unit();
    writeln!(text, "\n### {}\n", step.title)?;
    writeln!(text, "`{}`; CPU in µs a {unit}.\n", step.load.command())?;
    writeln!(text, "| {} |", table.titles.join(" | "))?;
    writeln!(text, "|{}", "---|".repeat(table.titles.len()))?;
    for row in &table.rows {
        writeln!(text, "| {} |", row.join(" | "))?;
    }
    Ok(())
}

/// A table that grows by columns, with a row for each server.
struct Table<'a> {
    step: &'static str,
    results: &'a Results,
    servers: Vec<ServerSpec>,
    titles: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table<'_> {
    fn fill(&mut self, step: &Step) {
        let scenario = step.load.scenario;
        let unit = scenario.unit();
        // Of a rate that was asked for and is reached anyway nothing is learnt.
        if step.load.rate.is_none() || scenario == Scenario::Messages {
            self.figure(&format!("{unit}s/s"), |o| Some(o.rate()), |s| s.cell(0));
        }
        self.figure("CPU, sum", |o| Some(o.server_cpu()), micros);
        for part in self.names(|outcome| outcome.cpu.keys()) {
            self.figure(&part, |o| o.cpu.get(&part).copied(), micros);
        }
        self.figure("generator", |o| Some(o.generator_cpu), micros);
        for what in self.names(|outcome| outcome.latencies.keys()) {
            self.latencies(&what);
        }
        if scenario.is_batch() {
            self.figure("KiB a client", |o| Some(o.memory_kib), |s| s.cell(1));
        }
        if scenario == Scenario::Messages {
            self.figure("KiB written", |o| Some(o.written_kib), |s| s.cell(1));
        }
        if scenario == Scenario::SharedConnections {
            let connections = |o: &Outcome| o.counts.get("connections").map(|count| *count as f64);
            self.figure("connections opened", connections, |s| s.cell(0));
        }
        self.column("faults", |table, server| Some(table.faults(server)));
    }

    fn column(&mut self, title: &str, cell: impl Fn(&Self, ServerSpec) -> Option<String>) {
        let servers = self.servers.iter();
        let cells: Vec<_> = servers.map(|server| cell(self, *server)).collect();
        self.titles.push(title.to_owned());
        for (row, cell) in self.rows.iter_mut().zip(cells) {
            row.push(cell.unwrap_or_else(|| "–".to_owned()));
        }
    }

    fn spread(
        &self,
        server: ServerSpec,
        figure: impl Fn(&Outcome) -> Option<f64>,
    ) -> Option<Spread> {
        self.results.spread(self.step, server, figure)
    }

    fn figure(
        &mut self,
        title: &str,
        figure: impl Fn(&Outcome) -> Option<f64>,
        cell: impl Fn(Spread) -> String,
    ) {
        self.column(title, |table, server| {
            table.spread(server, &figure).map(&cell)
        });
    }

    fn latencies(&mut self, what: &str) {
        let title = format!("{what} p50 / p99 / p99.9 / max, ms");
        self.column(&title, |table, server| {
            let of = |figure: fn(&Summary) -> f64| {
                table.spread(server, |outcome| outcome.latencies.get(what).map(figure))
            };
            let brief = |spread: Spread| {
                thousands(spread.median, if spread.median < 100.0 { 1 } else { 0 })
            };
            let (p50, p99) = (of(|s| s.p50)?, of(|s| s.p99)?);
            let (p999, max) = (of(|s| s.p999)?, of(|s| s.max)?);
            let p99 = p99.cell(if p99.most < 100.0 { 1 } else { 0 });
            Some(format!(
                "{} / {p99} / {} / {}",
                brief(p50),
                brief(p999),
                brief(max)
            ))
        });
    }

    /// All names that occur in outcomes of this table.
    fn names<'o, Names: Iterator<Item = &'o String>>(
        &'o self,
        of: impl Fn(&'o Outcome) -> Names,
    ) -> BTreeSet<String> {
        let servers = self.servers.iter();
        let outcomes = servers.flat_map(|server| self.results.outcomes(self.step, *server));
        outcomes
            .flat_map(|(_, outcome)| of(outcome))
            .cloned()
            .collect()
    }

    fn faults(&self, server: ServerSpec) -> String {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, outcome) in self.results.outcomes(self.step, server) {
            for (what, count) in outcome.faults() {
                *sums.entry(what).or_default() += count;
            }
        }
        let faults: Vec<_> = sums
            .iter()
            .map(|(what, count)| format!("{what} {count}"))
            .collect();
        if faults.is_empty() {
            "none".to_owned()
        } else {
            faults.join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_keeps_what_is_around_the_figures() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("page.md");
        std::fs::write(&page, format!("above\n{BEGIN}\nold\n{END}\nbelow\n")).unwrap();
        replace(&page, "new\n").unwrap();
        replace(&page, "newer\n").unwrap();
        let text = std::fs::read_to_string(&page).unwrap();
        assert_eq!(text, format!("above\n{BEGIN}\n\nnewer\n\n{END}\nbelow\n"));
        std::fs::write(&page, "no place").unwrap();
        assert!(replace(&page, "new").is_err());
    }
}
