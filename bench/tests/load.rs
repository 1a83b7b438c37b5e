//! The load generator against a server that keeps its word, one that breaks it, one that stalls
//! and one that dies.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_bench");

/// The in-memory server of the benchmarks; killed at the end.
struct Server {
    child: Child,
    address: String,
    /// Open files without any client.
    own_files: usize,
}

fn open_files(process: &Child) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", process.id()));
    files.unwrap().count()
}

impl Server {
    fn start(args: &[&str]) -> Server {
        let mut child = Command::new(BENCH)
            .arg("alone")
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .trim()
            .strip_prefix("ready at http://")
            .unwrap()
            .to_owned();
        let own_files = open_files(&child);
        Server {
            child,
            address,
            own_files,
        }
    }

    /// Waits until so many clients are connected. Nothing tells that from outside but the server's
    /// open files.
    fn until_connected(&self, clients: usize) {
        while open_files(&self.child) < self.own_files + clients {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    fn load(&self, arguments: &str) -> Command {
        let process = format!("server={}", self.child.id());
        let mut command = Command::new(BENCH);
        command.arg("load").args(arguments.split(' '));
        command.args(["--json", "--target", &self.address, "--process", &process]);
        command
    }

    fn outcome(&self, arguments: &str) -> Value {
        outcome(self.load(arguments))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn outcome(mut load: Command) -> Value {
    let output = load.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{load:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn count(outcome: &Value, what: &str) -> u64 {
    outcome["counts"][what].as_u64().unwrap_or_default()
}

/// Lost, doubled, out of order among 24,000 messages of a server with this fault.
fn faults(fault: &str) -> (u64, u64, u64) {
    let server = Server::start(&["--fault", fault, "--every", "10000"]);
    let outcome = server.outcome("messages --rate 2000 --warm-up 0s --duration 12s --patience 60s");
    assert_eq!(outcome["latencies"]["ack"]["count"], 24_000, "{outcome}");
    (
        count(&outcome, "lost"),
        count(&outcome, "doubled"),
        count(&outcome, "out of order"),
    )
}

#[test]
fn a_message_in_10_000_that_is_dropped_is_found() {
    assert_eq!(faults("drop"), (2, 0, 0));
}

#[test]
fn a_message_in_10_000_that_is_doubled_is_found() {
    assert_eq!(faults("double"), (0, 2, 0));
}

#[test]
fn a_message_in_10_000_that_is_swapped_with_the_next_is_found() {
    assert_eq!(faults("swap"), (0, 0, 2));
}

#[test]
fn each_scenario_finds_nothing_wrong_with_a_sound_server() {
    let server = Server::start(&[]);
    for load in [
        "handshakes --clients 16 --warm-up 100ms --duration 500ms",
        "handshakes --clients 16 --rate 500 --warm-up 100ms --duration 500ms",
        "polling-sessions --clients 4 --warm-up 100ms --duration 500ms",
        "log-ins --clients 60",
        "log-ins --clients 60 --transport upgrade",
        "messages --clients 20 --warm-up 100ms --duration 500ms",
        "messages --clients 21 --rate 500 --warm-up 100ms --duration 500ms --transport upgrade --processes 3",
        "broadcast --clients 20 --warm-up 100ms --duration 1s",
        "idle --clients 100",
        "idle --clients 40 --transport upgrade",
        "shared-connections --clients 20 --connections 4 --warm-up 100ms --duration 500ms",
    ] {
        let outcome = server.outcome(load);
        assert!(outcome["units"].as_u64().unwrap() > 0, "{load}: {outcome}");
        let counts = outcome["counts"].as_object().unwrap();
        // A machine under load may be late; wrong it must not be.
        let allowed = ["connections", "off the rate"];
        for (what, count) in counts
            .iter()
            .filter(|(what, _)| !allowed.contains(&what.as_str()))
        {
            assert_eq!(count, 0, "{load}: {what}: {outcome}");
        }
        assert_eq!(
            outcome["problems"].as_array().unwrap().len(),
            0,
            "{load}: {outcome}"
        );
        assert!(
            outcome["cpu"]["server"].as_f64().unwrap() > 0.0,
            "{load}: {outcome}"
        );
        assert!(
            outcome["generator_cpu"].as_f64().unwrap() > 0.0,
            "{load}: {outcome}"
        );
    }
}

#[test]
fn the_connections_of_a_pool_are_kept_and_shared() {
    let server = Server::start(&[]);
    let outcome = server
        .outcome("shared-connections --clients 20 --connections 4 --warm-up 0s --duration 500ms");
    assert_eq!(count(&outcome, "connections"), 4, "{outcome}");
}

#[test]
fn idle_clients_show_in_the_server_s_memory() {
    let server = Server::start(&[]);
    let outcome = server.outcome("idle --clients 500");
    assert_eq!(outcome["units"], 500);
    let memory = outcome["memory_kib"].as_f64().unwrap();
    assert!((1.0..200.0).contains(&memory), "{memory} KiB a client");
}

/// A closed loop would have sent nothing while the server stood still, and would show a fine p99.
#[test]
fn what_was_due_while_the_server_stood_still_counts_from_when_it_was_due() {
    let server = Server::start(&[]);
    let load = server.load("messages --rate 1000 --clients 20 --warm-up 0s --duration 4s");
    let outcome = thread::scope(|scope| {
        let load = scope.spawn(|| outcome(load));
        server.until_connected(20);
        // In the middle of the measured time, or at least within it.
        thread::sleep(Duration::from_millis(1_000));
        server.signal(Signal::SIGSTOP);
        thread::sleep(Duration::from_millis(1_000));
        server.signal(Signal::SIGCONT);
        load.join().unwrap()
    });
    let ack = &outcome["latencies"]["ack"];
    assert_eq!(ack["count"], 4_000, "all that was due was sent: {outcome}");
    assert!(ack["p99"].as_f64().unwrap() > 500.0, "{outcome}");
    assert_eq!(count(&outcome, "lost"), 0, "{outcome}");
}

#[test]
fn a_server_that_dies_is_told_and_waited_for_no_longer_than_patience() {
    let server = Server::start(&[]);
    let load = server
        .load("messages --rate 1000 --clients 20 --warm-up 500ms --duration 2s --patience 1s");
    let outcome = thread::scope(|scope| {
        let load = scope.spawn(|| outcome(load));
        server.until_connected(20);
        thread::sleep(Duration::from_millis(1_000));
        server.signal(Signal::SIGKILL);
        load.join().unwrap()
    });
    assert_eq!(
        count(&outcome, "failed"),
        20,
        "each client noticed: {outcome}"
    );
    assert_ne!(outcome["problems"], Value::Array(Vec::new()));
}

#[test]
fn without_a_server_it_says_so() {
    let mut load = Command::new(BENCH);
    // Nothing listens on the port that only root could use and nobody does.
    load.args([
        "load",
        "messages",
        "--clients",
        "2",
        "--target",
        "127.0.0.1:1",
    ]);
    let output = load.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("cannot connect"), "{errors}");
}
