//! A master that does what a test says, and the workers it has.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering::SeqCst;

use common::handoff::{Hello, Packet, SocketInfo, Speaks};
use common::handoff_channel::{Channel, Listener};
use common::runtime_dir::RuntimeDir;
use common::scoreboard::Scoreboard;
use common::worker_id::WorkerId;
use sticky_worker::{Application, Exit, Worker, WorkerConfig, WorkerHandle};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::{LONG, until};

pub(crate) struct StubMaster {
    pub(crate) dir: TempDir,
    listener: Option<Listener>,
    tcp: TcpListener,
}

/// The master's side of one worker.
pub(crate) struct Member {
    pub(crate) channel: Channel,
    pub(crate) hello: Hello,
    pub(crate) board: Scoreboard,
    next: u64,
}

/// A worker that runs in this process.
pub(crate) struct Running {
    pub(crate) handle: WorkerHandle,
    pub(crate) member: Member,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Exit>,
}

impl StubMaster {
    pub(crate) async fn new() -> Self {
        let mut master = StubMaster {
            dir: tempfile::tempdir().unwrap(),
            listener: None,
            tcp: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        };
        master.listen();
        master
    }

    pub(crate) fn listen(&mut self) {
        let dir = RuntimeDir::open(self.dir.path()).unwrap();
        self.listener = Some(Listener::bind(&dir.master_socket()).unwrap());
    }

    /// Nobody is master any more.
    pub(crate) fn die(&mut self) {
        self.listener = None;
        let dir = RuntimeDir::open(self.dir.path()).unwrap();
        std::fs::remove_file(dir.master_socket()).unwrap();
    }

    /// Takes the next worker, with that answer to its Hello.
    pub(crate) async fn admit(&self, answer: Packet) -> Member {
        let listener = self.listener.as_ref().unwrap();
        let channel = timeout(LONG, listener.accept()).await.unwrap().unwrap();
        let delivery = timeout(LONG, channel.receive()).await.unwrap();
        let delivery = delivery.unwrap().unwrap();
        let Packet::Hello(hello) = delivery.packet else {
            panic!("{:?} instead of Hello", delivery.packet)
        };
        let board = Scoreboard::open(&delivery.fds[0]).unwrap();
        channel.send(&answer, &[]).await.unwrap();
        Member {
            channel,
            next: hello.received,
            hello,
            board,
        }
    }

    pub(crate) fn config(&self, worker: u8) -> WorkerConfig {
        WorkerConfig::new(self.dir.path(), WorkerId(worker))
    }

    /// A worker with that id that serves `application` and is ready.
    pub(crate) async fn start(&self, worker: u8, application: impl Application) -> Running {
        self.start_with(self.config(worker), application).await
    }

    pub(crate) async fn start_with(
        &self,
        config: WorkerConfig,
        application: impl Application,
    ) -> Running {
        let relay = RuntimeDir::open(self.dir.path()).unwrap();
        let relay = relay.relay_socket(config.worker);
        let (worker, member) = tokio::join!(Worker::register(config), self.admit(Packet::Welcome));
        let worker = worker.unwrap();
        let handle = worker.handle();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async {
                // A test that forgot the worker does not end it.
                if stopped.await.is_err() {
                    std::future::pending().await
                }
            };
            worker.run(application, stopped).await.unwrap()
        });
        until("the relay socket", || relay.exists()).await;
        Running {
            handle,
            member,
            stop: Some(stop),
            task,
        }
    }

    /// A client whose socket goes to that worker, as what it speaks.
    pub(crate) async fn connect_as(&self, member: &mut Member, info: SocketInfo) -> TcpStream {
        let (mut clients, served) = self.sockets(1).await;
        member.hand_over_as(&served, info).await;
        clients.remove(0)
    }

    /// A client whose socket goes to that worker.
    pub(crate) async fn connect(&self, member: &mut Member, balanced: bool) -> TcpStream {
        let (mut clients, served) = self.sockets(1).await;
        member.hand_over(&served, balanced).await;
        clients.remove(0)
    }

    /// Connected pairs: the clients' ends and the served ones.
    pub(crate) async fn sockets(&self, count: usize) -> (Vec<TcpStream>, Vec<TcpStream>) {
        let address = self.tcp.local_addr().unwrap();
        let (mut clients, mut served) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (client, accepted) = tokio::join!(TcpStream::connect(address), self.tcp.accept());
            clients.push(client.unwrap());
            served.push(accepted.unwrap().0);
        }
        (clients, served)
    }
}

impl Member {
    pub(crate) async fn hand_over(&mut self, sockets: &[TcpStream], balanced: bool) {
        let info = SocketInfo {
            peer: None,
            counted: None,
            speaks: Speaks::Http,
            balanced,
            known_us: 0,
        };
        self.hand_over_as(sockets, info).await;
    }

    /// With all that is said of the sockets, but for their peers.
    pub(crate) async fn hand_over_as(&mut self, sockets: &[TcpStream], info: SocketInfo) {
        let info = |socket: &TcpStream| SocketInfo {
            peer: socket.peer_addr().ok(),
            ..info
        };
        let packet = Packet::Handoff {
            first: self.next,
            sockets: sockets.iter().map(info).collect(),
        };
        let fds: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        self.channel.send(&packet, &fds).await.unwrap();
        self.next += sockets.len() as u64;
    }

    /// Closes the channel as a master's death does.
    pub(crate) fn die(self) {
        drop(self.channel);
    }

    /// The next packet, Progress aside.
    pub(crate) async fn told(&self) -> Packet {
        loop {
            let delivery = timeout(LONG, self.channel.receive()).await.unwrap();
            match delivery.unwrap().unwrap().packet {
                Packet::Progress => {}
                packet => return packet,
            }
        }
    }

    pub(crate) fn settled(&self) -> u64 {
        self.board.settled.load(SeqCst)
    }

    pub(crate) fn clients(&self) -> u64 {
        self.board.clients.load(SeqCst)
    }
}

impl Running {
    /// Has the worker leave as if its process were told to.
    pub(crate) fn shut_down(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    pub(crate) async fn exit(self) -> Exit {
        timeout(LONG, self.task).await.unwrap().unwrap()
    }

    /// As [`exit`](Self::exit), with the master's end of the channel closed.
    pub(crate) async fn exit_without_master(self) -> Exit {
        drop(self.member);
        timeout(LONG, self.task).await.unwrap().unwrap()
    }
}
