//! Bars as SVG: readable on a light and on a dark page, with the parts of each server in colours.

use std::fmt::Write as _;
use std::path::Path;

use super::plan::{self, Figure};
use super::results::Results;
use crate::server::ServerSpec;

/// One picture: a figure of one step, for each of its servers.
struct Plot {
    file: &'static str,
    step: &'static str,
    title: &'static str,
    figure: Figure,
    unit: &'static str,
}

const PLOTS: [Plot; 5] = [
    Plot {
        file: "handshakes",
        step: "handshakes",
        title: "CPU of a polling handshake on a new connection",
        figure: Figure::Cpu,
        unit: "µs",
    },
    Plot {
        file: "messages",
        step: "messages-6000",
        title: "CPU of a private message, 6,000 a second",
        figure: Figure::Cpu,
        unit: "µs",
    },
    Plot {
        file: "most-messages",
        step: "messages",
        title: "Private messages a second, at most",
        figure: Figure::Rate,
        unit: "/s",
    },
    Plot {
        file: "log-ins",
        step: "log-ins",
        title: "CPU of a log-in, everyone told of everyone",
        figure: Figure::Cpu,
        unit: "µs",
    },
    Plot {
        file: "idle",
        step: "idle",
        title: "Memory of an idle WebSocket client",
        figure: Figure::Memory,
        unit: "KiB",
    },
];

const WIDTH: f64 = 820.0;
const LEFT: f64 = 290.0;
const BARS: f64 = 410.0;
const ROW: f64 = 26.0;
const TOP: f64 = 64.0;

/// Colours that keep their contrast on white and on black, one a part.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.t{font-weight:600;font-size:15px}\
    .workers,.whole{fill:#2f81f7}.master{fill:#a371f7}.Redis{fill:#e5534b}.proxy{fill:#c69026}\
    .r{stroke:#1f2328;stroke-width:1.5}\
    @media (prefers-color-scheme:dark){text{fill:#e6edf3}.r{stroke:#e6edf3}}";

/// Writes each picture whose step was measured into `folder`.
pub(super) fn write_all(folder: &Path, results: &Results) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let steps = plan::steps(results.quick);
    for plot in &PLOTS {
        let Some(step) = steps.iter().find(|step| step.key == plot.step) else {
            continue;
        };
        let bars: Vec<Bar> = step
            .servers
            .iter()
            .filter_map(|server| bar(plot, *server, results))
            .collect();
        if !bars.is_empty() {
            std::fs::write(
                folder.join(plot.file).with_extension("svg"),
                draw(plot, &bars),
            )?;
        }
    }
    Ok(())
}

struct Bar {
    label: String,
    /// Parts with their share of the median.
    parts: Vec<(String, f64)>,
    median: f64,
    least: f64,
    most: f64,
}

fn bar(plot: &Plot, server: ServerSpec, results: &Results) -> Option<Bar> {
    let spread = results.spread(plot.step, server, |outcome| Some(plot.figure.of(outcome)))?;
    let mut parts = Vec::new();
    if plot.figure == Figure::Cpu {
        let names = results
            .outcomes(plot.step, server)
            .flat_map(|(_, outcome)| outcome.cpu.keys());
        let names: std::collections::BTreeSet<&String> = names.collect();
        let medians = names.into_iter().filter_map(|name| {
            let part =
                results.spread(plot.step, server, |outcome| outcome.cpu.get(name).copied())?;
            Some((name.clone(), part.median))
        });
        parts = medians.collect();
        parts.sort_by_key(|(name, _)| std::cmp::Reverse(name.clone()));
    }
    // The medians of the parts need not add up to the median of the sum.
    let sum: f64 = parts.iter().map(|(_, median)| median).sum();
    if sum > 0.0 {
        parts
            .iter_mut()
            .for_each(|(_, median)| *median *= spread.median / sum);
    } else {
        parts = vec![("whole".to_owned(), spread.median)];
    }
    Some(Bar {
        label: server.to_string(),
        parts,
        median: spread.median,
        least: spread.least,
        most: spread.most,
    })
}

fn draw(plot: &Plot, bars: &[Bar]) -> String {
    let most = bars
        .iter()
        .map(|bar| bar.most)
        .fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LEFT + value.max(0.0) / most * BARS;
    let height = TOP + ROW * bars.len() as f64 + 12.0;
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let mut put = |text: std::fmt::Arguments<'_>| svg.write_fmt(text).unwrap_or_default();
    put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n<text class=\"t\" x=\"8\" y=\"22\">{title}, {unit}</text>\n",
        title = plot.title,
        unit = plot.unit,
    ));
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in bars.iter().flat_map(|bar| &bar.parts) {
        if name != "whole" && !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    for (n, name) in names.iter().enumerate() {
        let left = LEFT + n as f64 * 90.0;
        put(format_args!(
            "<rect class=\"{name}\" x=\"{left}\" y=\"34\" width=\"12\" height=\"12\"/><text x=\"{}\" y=\"45\">{name}</text>\n",
            left + 17.0
        ));
    }
    for (row, bar) in bars.iter().enumerate() {
        let top = TOP + ROW * row as f64;
        let middle = top + ROW / 2.0 - 3.0;
        put(format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n",
            LEFT - 10.0,
            middle + 4.5,
            bar.label
        ));
        let mut from = 0.0;
        for (name, value) in &bar.parts {
            let (left, right) = (x(from), x(from + value));
            put(format_args!(
                "<rect class=\"{name}\" x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"16\"/>\n",
                middle - 8.0,
                right - left
            ));
            from += value;
        }
        put(format_args!(
            "<line class=\"r\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\n",
            x(bar.least),
            x(bar.most)
        ));
        let decimals = if bar.median < 10.0 { 1 } else { 0 };
        put(format_args!(
            "<text x=\"{:.1}\" y=\"{}\">{:.decimals$}</text>\n",
            x(bar.most) + 8.0,
            middle + 4.5,
            bar.median
        ));
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plot_is_of_a_step_and_well_formed() {
        let steps = plan::steps(false);
        for plot in &PLOTS {
            assert!(steps.iter().any(|step| step.key == plot.step));
            let parts = vec![("workers".to_owned(), 30.0), ("master".to_owned(), 10.0)];
            let bar = Bar {
                label: "one".to_owned(),
                parts,
                median: 40.0,
                least: 38.0,
                most: 50.0,
            };
            let svg = draw(plot, &[bar]);
            assert_eq!(
                svg.matches("<rect").count(),
                4,
                "two parts, two in the legend"
            );
            assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
            assert!(svg.contains("prefers-color-scheme:dark"));
        }
    }
}
