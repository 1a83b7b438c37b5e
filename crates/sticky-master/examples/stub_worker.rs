//! The smallest worker: takes sockets off the handoff channel and answers each
//! first request with its worker id and process id. It speaks no Socket.IO. The
//! tests of the master run it; it also shows what a worker has to do.
//!
//! `STUB_SLEEPS=N`: worker N registers but never takes a socket.
//! `STUB_DIES=1`: exits with code 3 before it registers.
//! `STUB_HOLDS=1`: takes its id and never registers.
//! `STUB_LEAVES=N`: worker N says that it leaves, serves what it is given, and
//! stays, whatever it is told.
//! `STUB_LOSES=N`: worker N has no descriptor left for any socket.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::handoff::{Hello, Packet, SocketInfo};
use common::handoff_channel::Channel;
use common::runtime_dir::RuntimeDir;
use common::scoreboard::Scoreboard;
use common::worker_env;
use common::worker_id::{Generation, NodeId, WorkerId};
use std::os::fd::AsFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn number(name: &str) -> u64 {
    std::env::var(name).unwrap().parse().unwrap()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::var_os("STUB_DIES").is_some() {
        std::process::exit(3);
    }
    let worker = WorkerId(number(worker_env::WORKER_ID) as u8);
    let dir = RuntimeDir::open(std::env::var(worker_env::RUNTIME_DIR)?.as_ref())?;
    let _lock = dir.lock_worker(worker)?;
    if std::env::var_os("STUB_HOLDS").is_some() {
        std::future::pending::<()>().await;
    }
    let (board, page) = Scoreboard::create()?;
    let board = Arc::new(board);
    board.fd_headroom.store(1000, SeqCst);
    let told = |name| std::env::var(name).is_ok_and(|id| id == worker.to_string());
    let (sleeps, loses) = (told("STUB_SLEEPS"), told("STUB_LOSES"));
    let leaves = told("STUB_LEAVES");
    // A worker that loses its master serves on and waits for the next, but not
    // for ever.
    for _ in 0..500 {
        let Ok(channel) = Channel::connect(&dir.master_socket()) else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let hello = Hello {
            worker,
            node: NodeId(number(worker_env::NODE_ID) as u16),
            generation: Generation(number(worker_env::GENERATION)),
            pid: std::process::id(),
            ready: true,
            leaving: false,
            received: board.received.load(SeqCst),
            balanced_received: board.settled.load(SeqCst),
        };
        channel.send(&Packet::Hello(hello), &[page.as_fd()]).await?;
        if leaves {
            channel.send(&Packet::Leaving, &[]).await?;
        }
        if sleeps {
            std::future::pending::<()>().await;
        }
        while let Ok(Some(delivery)) = channel.receive().await {
            match delivery.packet {
                Packet::Handoff { first, sockets } if loses => {
                    let count = sockets.len() as u8;
                    let lost = board.lost.fetch_add(count.into(), SeqCst);
                    board.received.fetch_add(count.into(), SeqCst);
                    assert!(lost < 1000, "sent again and again");
                    channel.send(&Packet::Lost { first, count }, &[]).await?;
                }
                Packet::Handoff { sockets, .. } => {
                    for (info, fd) in sockets.into_iter().zip(delivery.fds) {
                        board.received.fetch_add(1, SeqCst);
                        if board.take_wake() {
                            channel.send(&Packet::Progress, &[]).await?;
                        }
                        tokio::spawn(serve(board.clone(), worker, info, fd));
                    }
                }
                Packet::Retire | Packet::Drain { .. } if !leaves => return Ok(()),
                _ => {}
            }
        }
    }
    Ok(())
}

async fn serve(
    board: Arc<Scoreboard>,
    worker: WorkerId,
    info: SocketInfo,
    fd: OwnedFd,
) -> io::Result<()> {
    let socket = std::net::TcpStream::from(fd);
    socket.set_nonblocking(true)?;
    let mut socket = TcpStream::from_std(socket)?;
    let mut head = Vec::<u8>::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut chunk = [0; 1024];
        let length = socket.read(&mut chunk).await?;
        if length == 0 {
            break;
        }
        head.extend(&chunk[..length]);
    }
    let body = format!("{worker} {} {}", std::process::id(), head.len());
    let answer = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(answer.as_bytes()).await?;
    if info.balanced {
        board.settled.fetch_add(1, SeqCst);
    }
    socket.shutdown().await
}
