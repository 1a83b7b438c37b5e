//! The master with real worker processes: `examples/stub_worker.rs`, which
//! speaks no Socket.IO and says who it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::runtime_dir::RuntimeDir;
use common::sid_tag::SidTag;
use rustix::process::{Pid, Signal};
use sticky_master::{
    Balance, CommandError, ListenAddress, Master, MasterConfig, MasterHandle, NodeId, Outcome,
    WorkerId,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Generous: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(20);

fn stub_worker() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(Path::parent).unwrap();
    let stub = target.join("examples/stub_worker");
    assert!(stub.exists(), "cargo builds examples with the tests");
    stub
}

struct Cluster {
    dir: TempDir,
    address: SocketAddr,
    handle: MasterHandle,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Outcome>,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    worker: u8,
    pid: i32,
    head: usize,
}

fn config(dir: &Path, workers: usize, variables: &[(&'static str, &str)]) -> MasterConfig {
    let any = ListenAddress::Tcp(([127, 0, 0, 1], 0).into());
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()))
        .collect();
    let stub = stub_worker();
    let mut config = MasterConfig::new(vec![any], workers, dir.to_owned(), move || {
        let mut command = Command::new(&stub);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command
    });
    config.balance = Balance::RoundRobin;
    config.stop_time = Duration::from_secs(1);
    config
}

impl Cluster {
    fn launch(dir: TempDir, config: MasterConfig) -> Cluster {
        let master = Master::bind(config).unwrap();
        let address = match master.addresses().next() {
            Some(ListenAddress::Tcp(address)) => *address,
            other => panic!("{other:?}"),
        };
        let handle = master.handle();
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            let _ = stopped.await;
        };
        let running = tokio::spawn(async move { master.run(stopped).await.unwrap() });
        Cluster {
            dir,
            address,
            handle,
            stop: Some(stop),
            running,
        }
    }

    async fn start(workers: usize, variables: &[(&'static str, &str)]) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), workers, variables);
        let cluster = Cluster::launch(dir, config);
        within(cluster.handle.all_ready()).await;
        cluster
    }

    /// Sends `request` and reads to the end; empty when the master refused by
    /// closing.
    async fn raw(&self, request: &[u8]) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(request).await.unwrap();
        let mut answer = String::new();
        within(socket.read_to_string(&mut answer)).await.unwrap();
        answer
    }

    async fn get(&self, target: &str) -> Answer {
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        parse(&self.raw(request.as_bytes()).await)
    }

    async fn stop(mut self) -> TempDir {
        self.stop.take().unwrap().send(()).unwrap();
        within(&mut self.running).await.unwrap();
        self.dir
    }

    /// What `kill -9` of a master leaves: no goodbye to anybody.
    async fn abandon(self) -> TempDir {
        self.running.abort();
        let _ = self.running.await;
        self.dir
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    let limited = tokio::time::timeout(LIMIT, future).await;
    limited.expect("took too long")
}

fn parse(answer: &str) -> Answer {
    let (head, body) = answer.split_once("\r\n\r\n").expect(answer);
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    let mut words = body.split(' ');
    let mut next = || words.next().unwrap();
    Answer {
        worker: next().parse().unwrap(),
        pid: next().parse().unwrap(),
        head: next().parse().unwrap(),
    }
}

fn sid_of(worker: u8) -> String {
    let tag = SidTag {
        node: NodeId(0),
        worker: WorkerId(worker),
    };
    format!("{}abcdefghijklmnop", str::from_utf8(&tag.encode()).unwrap())
}

fn kill(pid: i32) {
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn round_robin_is_even_and_tagged_sids_find_their_worker() {
    let cluster = Cluster::start(4, &[]).await;
    let mut count = BTreeMap::new();
    for _ in 0..40 {
        *count.entry(cluster.get("/").await.worker).or_insert(0) += 1;
    }
    assert_eq!(count, BTreeMap::from([(0, 10), (1, 10), (2, 10), (3, 10)]));
    for worker in [3, 0, 2, 1, 1] {
        let target = format!("/socket.io/?EIO=4&sid={}", sid_of(worker));
        assert_eq!(cluster.get(&target).await.worker, worker);
    }
    let first = cluster.get("/?sid=foreign").await.worker;
    for _ in 0..5 {
        assert_eq!(cluster.get("/?sid=foreign").await.worker, first);
    }
    // Nobody has worker id 9: any worker may say so.
    cluster.get(&format!("/?sid={}", sid_of(9))).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte_and_reaches_the_worker_whole() {
    let cluster = Cluster::start(2, &[]).await;
    let request = format!("GET /?EIO=4&sid={} HTTP/1.1\r\nHost: x\r\n\r\n", sid_of(1));
    let mut socket = TcpStream::connect(cluster.address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    for byte in request.as_bytes() {
        socket.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    within(socket.read_to_string(&mut answer)).await.unwrap();
    let answer = parse(&answer);
    assert_eq!((answer.worker, answer.head), (1, request.len()));
    cluster.stop().await;
}

#[tokio::test]
async fn a_client_can_read_why_it_is_refused() {
    let cluster = Cluster::start(1, &[]).await;
    let mut huge = b"GET / HTTP/1.1\r\nX: ".to_vec();
    huge.resize(1024 * 1024, b'a');
    for (request, status) in [
        (huge.as_slice(), "431"),
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", "400"),
        (b"nonsense\r\n\r\n", "400"),
    ] {
        let answer = cluster.raw(request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    cluster.get("/").await;
    cluster.stop().await;
}

#[tokio::test]
async fn who_says_nothing_is_closed_and_who_dawdles_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), 1, &[]);
    config.head_time = Duration::from_millis(300);
    let cluster = Cluster::launch(dir, config);
    within(cluster.handle.all_ready()).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(cluster.address).await.unwrap());
    }
    cluster.get("/").await;
    let slow = cluster.raw(b"GET / HTTP/1.1\r\n").await;
    assert!(slow.starts_with("HTTP/1.1 408 "), "{slow}");
    for mut socket in silent {
        assert_eq!(within(socket.read(&mut [0])).await.unwrap(), 0);
    }
    cluster.stop().await;
}

/// An end of file stays ready for ever: waiting for more of the head spun until
/// the deadline.
#[tokio::test]
async fn who_sends_half_a_head_and_ends_is_closed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), 1, &[]);
    config.head_time = LIMIT * 2;
    let cluster = Cluster::launch(dir, config);
    within(cluster.handle.all_ready()).await;
    let mut socket = TcpStream::connect(cluster.address).await.unwrap();
    socket.write_all(b"GET / HT").await.unwrap();
    socket.shutdown().await.unwrap();
    // A reset, since the half head was never read, or a plain end.
    let end = within(socket.read(&mut [0])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_killed_worker_is_replaced_under_its_id_by_another_process() {
    let cluster = Cluster::start(2, &[]).await;
    let target = format!("/?sid={}", sid_of(0));
    let before = cluster.get(&target).await;
    kill(before.pid);
    let begin = Instant::now();
    loop {
        let after = cluster.get(&target).await;
        if after.worker == 0 && after.pid != before.pid {
            break;
        }
        assert!(begin.elapsed() < LIMIT, "not replaced");
        tokio::task::yield_now().await;
    }
    cluster.stop().await;
}

#[tokio::test]
async fn sockets_on_their_way_to_a_worker_that_dies_go_to_another() {
    // Worker 0 registers and takes nothing; its process must be killed to let
    // go of what it was sent.
    let cluster = Cluster::start(2, &[("STUB_SLEEPS", "0")]).await;
    let lock = cluster.dir.path().join("worker-0.lock");
    let pid: i32 = std::fs::read_to_string(lock)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let target = format!("/?sid={}", sid_of(0));
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut sockets = Vec::new();
    for number in 0..50 {
        let mut socket = TcpStream::connect(cluster.address).await.unwrap();
        // Half of them chosen by the balancer, half by their session id.
        let request = match number % 2 {
            0 => request.as_bytes(),
            _ => b"GET / HTTP/1.1\r\n\r\n",
        };
        socket.write_all(request).await.unwrap();
        sockets.push(socket);
    }
    // The other worker is not held up by the sleeper.
    let other = cluster.get(&format!("/?sid={}", sid_of(1))).await;
    assert_eq!(other.worker, 1);
    kill(pid);
    for mut socket in sockets {
        let mut answer = String::new();
        within(socket.read_to_string(&mut answer)).await.unwrap();
        parse(&answer);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn without_workers_the_answer_is_503_at_once_and_restarts_back_off() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 1, &[("STUB_DIES", "1")]);
    let cluster = Cluster::launch(dir, config);
    let generation = cluster.dir.path().join("generation");
    let starts = || {
        let text = std::fs::read_to_string(&generation).unwrap_or_default();
        text.trim().parse::<u32>().unwrap_or(0)
    };
    let begin = Instant::now();
    while starts() < 4 {
        let answer = cluster.raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
        assert!(begin.elapsed() < LIMIT, "{} starts", starts());
    }
    // Pauses of 0, 100 and 200 ms lie between four starts.
    assert!(begin.elapsed() >= Duration::from_millis(300));
    cluster.stop().await;
}

#[tokio::test]
async fn the_next_master_adopts_the_workers_and_a_second_one_is_refused() {
    let cluster = Cluster::start(3, &[]).await;
    let pids = |cluster: Cluster| async move {
        let mut pids = BTreeMap::new();
        for _ in 0..3 {
            let answer = cluster.get("/").await;
            pids.insert(answer.worker, answer.pid);
        }
        (cluster, pids)
    };
    let (cluster, before) = pids(cluster).await;
    let second = Master::bind(config(cluster.dir.path(), 3, &[])).unwrap_err();
    assert!(
        second.to_string().contains("in use by a living master"),
        "{second}"
    );
    let dir = cluster.abandon().await;
    let config = config(dir.path(), 3, &[]);
    let cluster = Cluster::launch(dir, config);
    within(cluster.handle.all_ready()).await;
    let (cluster, after) = pids(cluster).await;
    assert_eq!(before, after);
    cluster.stop().await;
}

/// A worker of an earlier master that has its id and says nothing.
async fn silent_holder(dir: &Path) -> tokio::process::Child {
    let child = tokio::process::Command::new(stub_worker())
        .env("STUB_HOLDS", "1")
        .env("STICKY_RUNTIME_DIR", dir)
        .env("STICKY_WORKER_ID", "0")
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid = child.id();
    let runtime_dir = RuntimeDir::open(dir).unwrap();
    let begin = Instant::now();
    while runtime_dir.worker_holder(WorkerId(0)).unwrap() != pid {
        assert!(begin.elapsed() < LIMIT, "it does not take its id");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    child
}

#[tokio::test]
async fn a_holder_that_dies_before_it_registers_is_replaced_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut holder = silent_holder(dir.path()).await;
    let mut config = config(dir.path(), 1, &[]);
    config.stuck_time = LIMIT * 2;
    let cluster = Cluster::launch(dir, config);
    // The seat is the holder's by now.
    tokio::task::yield_now().await;
    holder.kill().await.unwrap();
    within(cluster.handle.all_ready()).await;
    cluster.stop().await;
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_holder_to_register() {
    let dir = tempfile::tempdir().unwrap();
    let mut holder = silent_holder(dir.path()).await;
    let mut config = config(dir.path(), 1, &[]);
    config.stuck_time = LIMIT * 2;
    let cluster = Cluster::launch(dir, config);
    tokio::task::yield_now().await;
    cluster.stop().await;
    // The master, which is in this process here, may have reaped it before.
    let _ = within(holder.wait()).await;
}

#[tokio::test]
async fn stopping_ends_a_worker_that_leaves_and_its_successor() {
    let cluster = Cluster::start(1, &[("STUB_LEAVES", "0")]).await;
    let lock = cluster.dir.path().join("worker-0.lock");
    let pid = std::fs::read_to_string(lock).unwrap();
    // Until the master has read that it leaves, the worker may be given some.
    within(async { while cluster.get("/").await.worker == 0 {} }).await;
    cluster.stop().await;
    let process = Path::new("/proc").join(pid.trim());
    assert!(!process.exists(), "{process:?} lives");
}

/// Sockets that a worker had no descriptor for went back to it as fast as it
/// could lose them.
#[tokio::test]
async fn lost_sockets_go_elsewhere_and_those_of_a_session_are_refused() {
    let cluster = Cluster::start(2, &[("STUB_LOSES", "0")]).await;
    for _ in 0..5 {
        assert_eq!(cluster.get("/").await.worker, 1);
        let request = format!("GET /?sid={} HTTP/1.1\r\nHost: x\r\n\r\n", sid_of(0));
        let answer = cluster.raw(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    cluster.stop().await;
}

/// As after an `execve` that failed; one that succeeds is tried end to end.
#[tokio::test]
async fn a_master_that_takes_its_own_handover_goes_on_with_all_that_waited() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 2, &[]);
    let mut cluster = Cluster::launch(dir, config.clone());
    within(cluster.handle.all_ready()).await;
    assert_eq!(cluster.handle.scale(3).await.unwrap().now, 3);
    let mut before = BTreeMap::new();
    for _ in 0..3 {
        let answer = cluster.get("/").await;
        before.insert(answer.worker, answer.pid);
    }
    let mut half = TcpStream::connect(cluster.address).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
    cluster.handle.hand_over().await.unwrap();
    let outcome = within(&mut cluster.running).await.unwrap();
    let Outcome::HandedOver(handover) = outcome else {
        panic!("{outcome:?}");
    };
    let passed = handover.pass().unwrap();
    assert!(passed.variable.parse::<i32>().unwrap() > 2);
    drop(passed);

    let master = Master::take_over(config, handover).unwrap();
    let handle = master.handle();
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move {
        let _ = stopped.await;
    };
    cluster.running = tokio::spawn(async move { master.run(stopped).await.unwrap() });
    (cluster.handle, cluster.stop) = (handle, Some(stop));
    within(cluster.handle.all_ready()).await;
    half.write_all(b"st: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(half.read_to_string(&mut answer)).await.unwrap();
    let answer = parse(&answer);
    assert_eq!(before.get(&answer.worker), Some(&answer.pid));
    let mut after = BTreeMap::new();
    for _ in 0..3 {
        let answer = cluster.get("/").await;
        after.insert(answer.worker, answer.pid);
    }
    assert_eq!(after, before);
    cluster.stop().await;
}

#[tokio::test]
async fn a_reload_gives_each_seat_a_new_process_or_leaves_all_as_it_is() {
    let cluster = Cluster::start(2, &[]).await;
    let pids = async || -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        for _ in 0..4 {
            pids.insert(cluster.get("/").await.pid);
        }
        pids
    };
    let before = pids().await;
    assert_eq!(within(cluster.handle.reload()).await.unwrap().workers, 2);
    let after = pids().await;
    assert!(after.is_disjoint(&before) && after.len() == 2);
    within(cluster.handle.nobody_drains()).await;
    assert_eq!(cluster.handle.scale(0).await, Err(CommandError::Workers(0)));
    assert_eq!(within(cluster.handle.scale(1)).await.unwrap().before, 2);
    assert_eq!(pids().await.len(), 1);
    cluster.stop().await;
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_reload_waits_for_every_process() {
    let cluster = Cluster::start(3, &[]).await;
    let third = cluster.dir.path().join("worker-3.lock");
    let handle = cluster.handle.clone();
    let reload = tokio::spawn(async move { handle.reload().await });
    within(async {
        while !third.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let dir = cluster.stop().await;
    // Done before the stop, or ended by it.
    let _ = within(reload).await.unwrap();
    // Asked by the locks: one that was ended early has not written its pid.
    let runtime_dir = RuntimeDir::open(dir.path()).unwrap();
    for id in 0..6 {
        let holder = runtime_dir.worker_holder(WorkerId(id));
        assert_eq!(holder.unwrap(), None, "worker {id} lives");
    }
}

#[tokio::test]
async fn stopping_ends_the_workers() {
    let cluster = Cluster::start(2, &[]).await;
    let (one, two) = (cluster.get("/").await.pid, cluster.get("/").await.pid);
    assert_ne!(one, two);
    cluster.stop().await;
    for pid in [one, two] {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} lives");
    }
}
