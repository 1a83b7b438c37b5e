//! A worker at its limit of open files. Runs in a process of its own: the limit
//! is the process's.

use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::Ordering::SeqCst;

use common::handoff::Packet;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;

use crate::client::read_head;
use crate::fake_engine::FakeEngine;
use crate::stub_master::StubMaster;

const CHILD: &str = "STICKY_TEST_DESCRIPTORS";
const NAME: &str = "descriptors::sockets_beyond_the_limit_are_given_back_by_number";

#[test]
fn sockets_beyond_the_limit_are_given_back_by_number() {
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        return runtime.block_on(at_the_limit());
    }
    let test = std::env::current_exe().unwrap();
    let status = Command::new(test)
        .args([NAME, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .status();
    assert!(status.unwrap().success());
}

async fn at_the_limit() {
    let master = StubMaster::new().await;
    let mut worker = master.start(0, FakeEngine::default()).await;
    let (mut clients, served) = master.sockets(8).await;
    let normal = getrlimit(Resource::Nofile);
    // Room for three more descriptors and no fourth.
    let next = rustix::io::dup(&served[0]).unwrap().as_raw_fd() as u64;
    let few = Rlimit {
        current: Some(next + 3),
        maximum: normal.maximum,
    };
    setrlimit(Resource::Nofile, few).unwrap();
    worker.member.hand_over(&served, true).await;
    assert_eq!(
        worker.member.told().await,
        Packet::Lost { first: 3, count: 5 }
    );
    let board = &worker.member.board;
    assert_eq!(board.received.load(SeqCst), 8);
    assert_eq!(board.lost.load(SeqCst), 5);
    assert_eq!(worker.member.settled(), 0);

    // The three that came are served, and with room again so are the others.
    setrlimit(Resource::Nofile, normal).unwrap();
    worker.member.hand_over(&served[3..], true).await;
    drop(served);
    for client in &mut clients {
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n")
            .await
            .unwrap();
        let head = read_head(client).await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    }
}
