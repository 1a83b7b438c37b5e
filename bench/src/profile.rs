//! Where the CPU time of one part of a server goes, as perf samples tell it: by system call in the
//! kernel, by crate outside of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;

use crate::clock;
use crate::drive::drive;
use crate::proc::Role;
use crate::progress::Progress;
use crate::scenario::Spec;
use crate::server::{Programs, Server, ServerSpec};

/// Samples a second of each CPU; not a round number, so that no timer keeps in step with it.
const FREQUENCY: &str = "3989";
/// Rows of the table, and symbols told of each.
const ROWS: usize = 5;
const SYMBOLS: usize = 4;

/// Runs the load of `spec` on a new server, and prints where `part` spent its time meanwhile. What perf
/// recorded is kept in `keep`.
pub(crate) async fn profile(
    server: ServerSpec,
    programs: &Programs,
    spec: &Spec,
    part: &str,
    keep: Option<&Path>,
) -> anyhow::Result<()> {
    let running = Server::start(server, programs, None).await?;
    let spec = Spec {
        target: running.address,
        ..spec.clone()
    };
    let role = running.roles.iter().find(|role| role.name == part);
    let role = role.with_context(|| format!("{server} has no part called {part}"))?;
    let file = tempfile::NamedTempFile::new()?;
    let path = keep.unwrap_or(file.path()).to_str().context("not UTF-8")?;
    let progress = Progress::new(1);
    let (outcome, recorded) = tokio::join!(
        drive(&spec, &running.roles, &progress),
        record(role, &spec, path)
    );
    recorded?;
    let outcome = outcome?;
    running.stop().await?;
    drop(progress);
    let script = Command::new("perf")
        .args(["script", "-i", path, "-F", "ip,sym"])
        .output()
        .await;
    let script = script.context("cannot run perf script")?;
    let groups = Groups::read(&String::from_utf8_lossy(&script.stdout));
    if groups.samples == 0 {
        bail!(
            "perf has no samples: {}",
            String::from_utf8_lossy(&script.stderr)
        );
    }
    print!("{}", groups.table());
    println!("\nThe load while it was sampled:\n{outcome}");
    Ok(())
}

/// Samples the processes of `role` from the end of the warm-up on.
async fn record(role: &Role, spec: &Spec, path: &str) -> anyhow::Result<()> {
    let pids: Vec<String> = role.pids().iter().map(u32::to_string).collect();
    // Log-ins are over soon: they are sampled from their beginning.
    let (skip, length) = if spec.scenario.is_batch() {
        (Duration::ZERO, Duration::from_secs(60))
    } else {
        (spec.warm_up + Duration::from_millis(500), spec.duration)
    };
    tokio::time::sleep(skip).await;
    let mut perf = Command::new("perf")
        .args([
            "record",
            "--quiet",
            "--call-graph",
            "fp",
            "--freq",
            FREQUENCY,
            "--output",
            path,
        ])
        .args([
            "--pid",
            &pids.join(","),
            "--",
            "sleep",
            &length.as_secs_f64().to_string(),
        ])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start perf: Debian's package is linux-perf")?;
    let begun = clock::now();
    let status = perf.wait().await?;
    let took = Duration::from_nanos(clock::now() - begun);
    if !status.success() && took < length {
        bail!("perf ended with {status}");
    }
    Ok(())
}

/// Samples by what they were taken in.
#[derive(Default)]
struct Groups {
    samples: usize,
    /// By group: its samples, and those of each symbol.
    groups: BTreeMap<String, BTreeMap<String, usize>>,
}

impl Groups {
    /// Reads what `perf script -F ip,sym` prints: a paragraph a sample, the innermost frame first.
    fn read(script: &str) -> Groups {
        let mut groups = Groups::default();
        for sample in script.split("\n\n") {
            let frames = sample
                .lines()
                .filter_map(|line| line.trim().split_once(' '));
            let frames: Vec<(&str, &str)> = frames.collect();
            let Some((address, symbol)) = frames.first() else {
                continue;
            };
            let group = if address.starts_with("ffffffff") {
                let call = frames.iter().find_map(|(_, symbol)| kernel_entry(symbol));
                format!("kernel: {}", call.unwrap_or("interrupts and the rest"))
            } else {
                user_group(symbol)
            };
            groups.samples += 1;
            *groups
                .groups
                .entry(group)
                .or_default()
                .entry((*symbol).to_owned())
                .or_default() += 1;
        }
        groups
    }

    fn table(&self) -> String {
        let share = |count: usize| count as f64 * 100.0 / self.samples as f64;
        let mut groups: Vec<_> = self
            .groups
            .iter()
            .map(|(name, symbols)| (symbols.values().sum::<usize>(), name, symbols))
            .collect();
        groups.sort_by_key(|(count, ..)| std::cmp::Reverse(*count));
        let mut table = format!(
            "{} samples\n\n| share | where | most of it in |\n|---|---|---|\n",
            self.samples
        );
        for (count, name, symbols) in groups.into_iter().take(ROWS) {
            let mut symbols: Vec<_> = symbols.iter().collect();
            symbols.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            let most: Vec<_> = symbols
                .iter()
                .take(SYMBOLS)
                .map(|(symbol, count)| format!("`{symbol}` {:.1} %", share(**count)))
                .collect();
            table += &format!("| {:.0} % | {name} | {} |\n", share(count), most.join(", "));
        }
        table
    }
}

/// What brought a process into the kernel, if this function tells.
fn kernel_entry(symbol: &str) -> Option<&str> {
    if symbol.contains("exc_page_fault") {
        return Some("page faults");
    }
    // Some calls have been inlined into what they all go through.
    let prefixes = ["__x64_sys_", "__sys_", "ksys_", "do_sys_"];
    let call = prefixes
        .iter()
        .find_map(|prefix| symbol.strip_prefix(prefix));
    call.or_else(|| symbol.strip_prefix("do_").filter(|call| *call == "writev"))
}

/// The crate that a symbol outside of the kernel is of.
fn user_group(symbol: &str) -> String {
    let allocates = [
        "_int_",
        "malloc",
        "cfree",
        "realloc",
        "calloc",
        "unlink_chunk",
        "free",
    ];
    if allocates.iter().any(|name| symbol.starts_with(name)) {
        return "allocator".to_owned();
    }
    if symbol.contains("mem") && symbol.contains("avx") && !symbol.contains("::") {
        return "copying and comparing memory".to_owned();
    }
    // `<&mut tokio::sync::Mutex as Future>::poll`: what is polled is tokio's.
    let path = symbol.trim_start_matches(|c: char| !c.is_alphanumeric());
    let path = ["mut ", "dyn "]
        .iter()
        .fold(path, |path, word| path.strip_prefix(word).unwrap_or(path));
    match path.split_once("::") {
        Some((name, _)) if name.chars().all(|c| c.is_alphanumeric() || c == '_') => {
            format!("crate {name}")
        }
        _ => "other libraries".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_grouped_by_system_call_and_by_crate() {
        let script = "\
ffffffff811 tcp_sendmsg
ffffffff812 __x64_sys_sendto
    7f00001 send

ffffffff813 irq_exit

ffffffff814 clear_page
ffffffff815 asm_exc_page_fault

     55aa11 <&mut tokio::sync::Mutex<T> as core::future::Future>::poll

     55aa12 <redis_adapter::Bus as Debug>::fmt

     7f0033 __memmove_avx_unaligned_erms
";
        let groups = Groups::read(script);
        assert_eq!(groups.samples, 6);
        let names: Vec<_> = groups.groups.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "copying and comparing memory",
                "crate redis_adapter",
                "crate tokio",
                "kernel: interrupts and the rest",
                "kernel: page faults",
                "kernel: sendto",
            ]
        );
        let row = "| 17 % | kernel: page faults | `clear_page` 16.7 % |";
        assert!(groups.table().contains(row), "{}", groups.table());
    }
}
