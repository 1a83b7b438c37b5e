//! Two runs of one machine: do they agree?

use std::path::Path;

use anyhow::bail;

use super::plan;
use super::results::Results;

/// Prints each ratio of both runs, and how far the second is from the first. Gives whether all
/// are within `tolerance`, as a part of the first.
pub(crate) fn compare(one: &Path, other: &Path, tolerance: f64) -> anyhow::Result<bool> {
    let (one, other) = (Results::read(one)?, Results::read(other)?);
    let (mut agree, mut compared) = (true, 0);
    println!("| ratio | first | second | difference |");
    println!("|---|---|---|---|");
    for ratio in plan::ratios() {
        let (first, second) = match (one.ratio(&ratio), other.ratio(&ratio)) {
            (Some(first), Some(second)) => (first, second),
            (None, None) => continue,
            _ => bail!(
                "only one of the runs has {}: {} to {}",
                ratio.what,
                ratio.of,
                ratio.to
            ),
        };
        compared += 1;
        let difference = second.median / first.median - 1.0;
        let within = difference.abs() <= tolerance;
        agree &= within;
        println!(
            "| {}: {} to {} | {:.2} | {:.2} | {:+.0} %{} |",
            ratio.what,
            ratio.of,
            ratio.to,
            first.median,
            second.median,
            difference * 100.0,
            if within { "" } else { " **!**" }
        );
    }
    if compared == 0 {
        bail!("there is no ratio in either run");
    }
    Ok(agree)
}
