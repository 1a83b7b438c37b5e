//! Which machine and which versions a run was made with.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::server::Programs;

/// For the reader of the figures.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    /// Programs and packages with their versions.
    pub(crate) versions: Vec<(String, String)>,
    /// The day, UTC.
    pub(crate) date: String,
}

impl Machine {
    pub(crate) fn look(programs: &Programs) -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = meminfo.lines().find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .split_whitespace()
                .next()?
                .parse::<f64>()
                .ok()
        });
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let node = |package: &str| {
            let version = package_version(&programs.node_cluster, package);
            version.map(|version| (package.to_owned(), version))
        };
        let mut versions = Vec::new();
        let tools: [(&str, &[&str]); 4] = [
            ("redis-server", &["--version"]),
            ("node", &["--version"]),
            ("haproxy", &["-v"]),
            ("nginx", &["-v"]),
        ];
        for (tool, args) in tools {
            versions.extend(version(tool, args).map(|version| (tool.to_owned(), version)));
        }
        let packages = [
            "socket.io",
            "@socket.io/sticky",
            "@socket.io/redis-adapter",
            "ioredis",
        ];
        versions.extend(packages.into_iter().filter_map(node));
        Machine {
            cpu: model.map_or("unknown", |(_, model)| model).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: total.unwrap_or_default() / 1024.0 / 1024.0,
            kernel: kernel.trim().to_owned(),
            versions,
            date: run("date", &["-u", "+%F"])
                .unwrap_or_default()
                .trim()
                .to_owned(),
        }
    }
}

fn run(program: &str, args: &[&str]) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(args)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .ok()?;
    // nginx tells its version on standard error.
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8(text).ok()
}

/// The first thing that looks like a version.
fn version(program: &str, args: &[&str]) -> Option<String> {
    let text = run(program, args)?;
    let words = text.split(|c: char| c.is_whitespace() || "/=".contains(c));
    let mut versions = words.filter_map(|word| {
        let word = word.trim_start_matches('v');
        let starts = word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
        starts.then(|| word.split('-').next().unwrap_or(word).to_owned())
    });
    versions.next()
}

fn package_version(folder: &Path, package: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Package {
        version: String,
    }
    let path = folder
        .join("node_modules")
        .join(package)
        .join("package.json");
    let package: Package = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    Some(package.version)
}
