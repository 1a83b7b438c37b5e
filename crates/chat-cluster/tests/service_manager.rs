//! The program under a service manager: what it tells, and that it takes the sockets that are
//! passed. The manager here is a stand-in; the end-to-end tests have a real systemd.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything that should happen soon may take.
const LIMIT: Duration = Duration::from_secs(30);

/// As `sd_listen_fds(3)` has it: the socket, which is standard input here, becomes descriptor 3,
/// and the process is told that it is its own.
const PASS_SOCKET: &str = "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";

struct Service {
    dir: TempDir,
    told: UnixDatagram,
    master: Child,
}

impl Service {
    /// Starts it behind `socket`, which stays the test's own, too.
    fn start(socket: &TcpListener, watchdog: Duration) -> Service {
        let dir = tempfile::tempdir().unwrap();
        let told = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        told.set_read_timeout(Some(LIMIT)).unwrap();
        let master = Service::master(dir.path(), socket, watchdog);
        Service { dir, told, master }
    }

    fn master(dir: &Path, socket: &TcpListener, watchdog: Duration) -> Child {
        let socket = OwnedFd::from(socket.try_clone().unwrap());
        Command::new("sh")
            .args(["-c", PASS_SOCKET, "sh"])
            .arg(env!("CARGO_BIN_EXE_chat-cluster"))
            .args(["--workers", "2", "--drain-time", "1s"])
            .arg("--runtime-dir")
            .arg(dir.join("run"))
            .arg("--data-dir")
            .arg(dir.join("data"))
            .env("NOTIFY_SOCKET", dir.join("notify"))
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string())
            .stdin(socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// The next message that has a line of this beginning.
    fn hears(&self, beginning: &str) -> String {
        let begin = Instant::now();
        let mut buffer = [0; 4096];
        while begin.elapsed() < LIMIT {
            let length = self.told.recv(&mut buffer).unwrap();
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            if text.lines().any(|line| line.starts_with(beginning)) {
                return text.to_owned();
            }
        }
        panic!("no {beginning}");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.master.id() as i32), signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // The master first: it would start workers anew.
        let _ = self.master.kill();
        let _ = self.master.wait();
        for id in 0..8 {
            let lock = self.dir.path().join(format!("run/worker-{id}.lock"));
            let held = std::fs::read_to_string(lock).ok();
            let pid = held.and_then(|text| text.trim().parse().ok());
            let alive = |pid: &i32| {
                let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
                command.is_ok_and(|command| command.contains("chat-cluster"))
            };
            if let Some(pid) = pid.filter(alive) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

fn health(socket: &TcpListener) -> String {
    let mut stream = TcpStream::connect(socket.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_service_manager_is_told_of_everything_that_it_waits_for() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut service = Service::start(&socket, Duration::from_millis(200));
    let ready = service.hears("READY=1");
    assert!(ready.contains("STATUS=2 of 2 workers ready"), "{ready}");
    let status = service.hears("STATUS=");
    let address = socket.local_addr().unwrap().to_string();
    assert!(status.contains(&address), "{status}");
    service.hears("WATCHDOG=1");
    service.hears("WATCHDOG=1");

    service.signal(Signal::SIGHUP);
    let reloading = service.hears("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    service.hears("READY=1");
    assert!(health(&socket).starts_with("HTTP/1.1 200 "));

    service.signal(Signal::SIGTERM);
    service.hears("STOPPING=1");
    assert!(service.master.wait().unwrap().success());
}

#[test]
fn connections_wait_for_the_next_master_and_the_workers_live_on() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut service = Service::start(&socket, Duration::from_secs(60));
    service.hears("READY=1");
    let lock = service.dir.path().join("run/worker-0.lock");
    let worker = std::fs::read_to_string(&lock).unwrap();

    service.signal(Signal::SIGKILL);
    service.master.wait().unwrap();
    // Nobody is there to take it, and it is not refused.
    let waiting = std::thread::spawn({
        let socket = socket.try_clone().unwrap();
        move || health(&socket)
    });
    service.master = Service::master(service.dir.path(), &socket, Duration::from_secs(60));
    service.hears("READY=1");
    assert!(waiting.join().unwrap().starts_with("HTTP/1.1 200 "));
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), worker);

    service.signal(Signal::SIGTERM);
    assert!(service.master.wait().unwrap().success());
}
