//! What handing over a connection costs at the least: a process that accepts, peeks and passes
//! the socket, and blocking workers that read one request and write a fixed answer.

use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// The bytes of a real handshake's answer.
const ANSWER: &str = "HTTP/1.1 200 OK\r\n\
    content-type: text/plain; charset=UTF-8\r\n\
    content-length: 118\r\n\r\n\
    0{\"sid\":\"AAAAabcdefghijklmnop\",\"upgrades\":[\"websocket\"],\"pingInterval\":25000,\
    \"pingTimeout\":20000,\"maxPayload\":1000000}";
const HEAD_MAX: usize = 8192;

/// Accepts and passes on, until it is killed.
pub(crate) fn run(workers: usize) -> anyhow::Result<()> {
    let mut channels = Vec::new();
    let mut children = Vec::new();
    for _ in 0..workers {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let child = Command::new(std::env::current_exe()?)
            .arg("floor-worker")
            .stdin(Stdio::from(theirs))
            .spawn()?;
        channels.push(ours);
        children.push(child);
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    rustix::net::listen(&listener, 4096)?;
    println!("ready at http://{}", listener.local_addr()?);
    let mut head = [0; HEAD_MAX];
    for channel in channels.iter().cycle() {
        let (connection, _) = listener.accept()?;
        // What a router would look at; a connection without a request is dropped.
        if connection.peek(&mut head).unwrap_or(0) > 0 {
            pass(channel.as_fd(), connection.as_fd())?;
        }
    }
    bail!("no workers")
}

fn pass(channel: BorrowedFd<'_>, connection: BorrowedFd<'_>) -> anyhow::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let connections = [connection];
    control.push(SendAncillaryMessage::ScmRights(&connections));
    rustix::net::sendmsg(
        channel,
        &[IoSlice::new(b"c")],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Answers what it is passed on standard input, until that ends.
pub(crate) fn run_worker() -> anyhow::Result<()> {
    let channel = std::io::stdin();
    while let Some(connection) = receive(channel.as_fd())? {
        // A client that went away is its own affair.
        let _ = answer(TcpStream::from(connection));
    }
    Ok(())
}

fn receive(channel: BorrowedFd<'_>) -> anyhow::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let message = rustix::net::recvmsg(
        channel,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if message.bytes == 0 {
        return Ok(None);
    }
    let sockets = control.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    sockets.context("a message without a socket").map(Some)
}

fn answer(mut connection: TcpStream) -> std::io::Result<()> {
    let mut head = [0; HEAD_MAX];
    // One read: the whole request was there when it was peeked at.
    if connection.read(&mut head)? > 0 {
        connection.write_all(ANSWER.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_the_length_that_it_says() {
        let (head, body) = ANSWER.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
    }
}
