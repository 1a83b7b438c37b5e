//! HAProxy and nginx in front of our workers' relay sockets: what somebody would run who has
//! them already. A session id names its worker in its first four characters, so the proxies
//! need no table of sessions; new clients go to the worker with the fewest connections.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use common::runtime_dir::RuntimeDir;
use common::sid_tag::SidTag;
use common::worker_id::{NodeId, WorkerId};
use tokio::process::Command;

use super::Start;
use super::process::Process;
use crate::proc::Scope;

/// A port that is free now.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Each worker's number, the first characters of its session ids, and its relay socket.
fn workers(start: &Start<'_>) -> anyhow::Result<Vec<(usize, String, String)>> {
    let run = RuntimeDir::open(&start.directory.join("run"))?;
    let ids = WorkerId::all().take(start.workers.into()).enumerate();
    let worker = |(number, worker)| {
        let tag = SidTag {
            node: NodeId(0),
            worker,
        }
        .encode();
        let tag = tag.iter().copied().map(char::from).collect();
        Ok((number, tag, run.relay_socket(worker).display().to_string()))
    };
    ids.map(worker).collect()
}

/// Debian keeps daemons where not every user's PATH leads.
fn daemon(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

async fn run(
    start: &mut Start<'_>,
    name: &'static str,
    command: &mut Command,
    port: u16,
) -> anyhow::Result<SocketAddr> {
    let mut process = Process::start(name, command)?;
    process.until_listening(port).await?;
    start.add(process, &[("proxy", Scope::Tree)]);
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

pub(super) async fn haproxy(start: &mut Start<'_>) -> anyhow::Result<SocketAddr> {
    let port = free_port()?;
    let (mut sticky, mut servers) = (String::new(), String::new());
    for (number, tag, socket) in workers(start)? {
        writeln!(
            sticky,
            "  use-server w{number} if {{ url_param(sid) -m beg {tag} }}"
        )?;
        writeln!(servers, "  server w{number} unix@{socket}")?;
    }
    let config = include_str!("../../peers/haproxy.cfg")
        .replace("@PORT@", &port.to_string())
        .replace("@WORKERS@", &(sticky + &servers));
    let path = start.path("haproxy.cfg")?;
    std::fs::write(&path, config)?;
    run(
        start,
        "haproxy",
        daemon("haproxy").args(["-db", "-f", &path]),
        port,
    )
    .await
}

pub(super) async fn nginx(start: &mut Start<'_>) -> anyhow::Result<SocketAddr> {
    let port = free_port()?;
    let directory = start.path("nginx")?;
    std::fs::create_dir(&directory)?;
    let (mut all, mut each, mut tags) = (String::new(), String::new(), String::new());
    for (number, tag, socket) in workers(start)? {
        writeln!(all, "    server unix:{socket};")?;
        writeln!(
            each,
            "  upstream w{number} {{ server unix:{socket}; keepalive 64; keepalive_requests 1000000; }}"
        )?;
        writeln!(tags, "    ~^{tag} w{number};")?;
    }
    // The workers' sockets are for the user that runs the cluster; nginx would take another.
    let root = nix::unistd::geteuid().is_root();
    let config = include_str!("../../peers/nginx.conf")
        .replace("@USER@", if root { "user root;" } else { "" })
        .replace("@DIRECTORY@", &directory)
        .replace("@PORT@", &port.to_string())
        .replace("@ALL@", &all)
        .replace("@EACH@", &each)
        .replace("@TAGS@", &tags);
    let path = start.path("nginx.conf")?;
    std::fs::write(&path, config)?;
    let mut command = daemon("nginx");
    command.args(["-p", &directory, "-e", "stderr", "-c", &path]);
    run(start, "nginx", &mut command, port).await
}
