//! What a request costs that has to be relayed from one worker to another, beside one that has not.

use std::rc::Rc;

use anyhow::{Context as _, bail};

use crate::client::chat::Auth;
use crate::client::http::Connection;
use crate::client::polling;
use crate::client::target::Target;
use crate::proc;
use crate::progress::Progress;
use crate::server::{Kind, Programs, Server, ServerSpec};
use crate::side_by_side::Spread;

/// Bytes of a large body; what the protocol allows is 1,000,000.
const LARGE: usize = 900_000;
/// Characters of a session id that name its worker.
const TAG: usize = 4;

/// What to measure.
#[derive(Debug)]
pub(crate) struct RelayCost {
    pub(crate) programs: Programs,
    pub(crate) rounds: u32,
    /// Small requests of each kind in a round.
    pub(crate) requests: u32,
    /// Large bodies of each kind in a round.
    pub(crate) bodies: u32,
}

/// CPU of the server, in microseconds.
#[derive(Default)]
struct Figures {
    direct: Vec<f64>,
    relayed: Vec<f64>,
    ratio: Vec<f64>,
}

impl Figures {
    fn add(&mut self, direct: f64, relayed: f64) {
        self.direct.push(direct);
        self.relayed.push(relayed);
        self.ratio.push(relayed / direct);
    }

    fn row(self, what: &str) -> String {
        let cell = |values, decimals| Spread::of(values).map(|spread| spread.cell(decimals));
        format!(
            "| {what} | {} | {} | {} |",
            cell(self.direct, 0).unwrap_or_default(),
            cell(self.relayed, 0).unwrap_or_default(),
            cell(self.ratio, 2).unwrap_or_default(),
        )
    }
}

impl RelayCost {
    /// Measures round by round and prints a table.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let spec = ServerSpec {
            kind: Kind::Embedded,
            workers: 2,
        };
        let server = Server::start(spec, &self.programs, None).await?;
        let progress = Progress::new(self.rounds.into());
        let (mut requests, mut megabytes) = (Figures::default(), Figures::default());
        for _ in 0..self.rounds {
            let mut pair = Pair::open(&server).await?;
            let small = r#"42["nothing"]"#;
            // Not counted: code and connections are warm then.
            pair.posts(&server, small, self.requests / 4).await?;
            let (direct, relayed) = pair.posts(&server, small, self.requests).await?;
            requests.add(direct, relayed);
            let large = format!(r#"42["nothing","{}"]"#, "x".repeat(LARGE));
            let (direct, relayed) = pair.posts(&server, &large, self.bodies).await?;
            let per_megabyte = 1e6 / large.len() as f64;
            megabytes.add(direct * per_megabyte, relayed * per_megabyte);
            progress.step_done();
        }
        drop(progress);
        server.stop().await?;
        println!(
            "CPU of master and workers in µs, median (least–most) of {} rounds with {} requests and {} bodies of {LARGE} bytes each; {spec}.\n",
            self.rounds, self.requests, self.bodies
        );
        println!("| what | direct | relayed | ratio |\n|---|---|---|---|");
        println!("{}", requests.row("a small POST"));
        println!("{}", megabytes.row("a megabyte of POST bodies"));
        Ok(())
    }
}

/// A connection that is with one worker, and a session on it and one on the other worker.
struct Pair {
    connection: Connection,
    own: String,
    foreign: String,
}

impl Pair {
    async fn open(server: &Server) -> anyhow::Result<Pair> {
        let target = Rc::new(Target::new(server.address, 0));
        let mut connection = Connection::new(&target);
        let own = session(&mut connection).await?;
        // New clients go to the worker that has fewer of them.
        for _ in 0..8 {
            let foreign = session(&mut Connection::new(&target)).await?;
            if foreign[..TAG] != own[..TAG] {
                return Ok(Pair {
                    connection,
                    own: polling::session_path(&own),
                    foreign: polling::session_path(&foreign),
                });
            }
        }
        bail!("all sessions are on one worker");
    }

    /// CPU of one POST of each kind; half of each comes first.
    async fn posts(
        &mut self,
        server: &Server,
        body: &str,
        count: u32,
    ) -> anyhow::Result<(f64, f64)> {
        let (own, foreign) = (self.own.clone(), self.foreign.clone());
        let (mut direct, mut relayed) = (0.0, 0.0);
        for _ in 0..2 {
            direct += self.post_all(server, &own, body, count / 2).await?;
            relayed += self.post_all(server, &foreign, body, count / 2).await?;
        }
        let posted = f64::from(count / 2 * 2);
        Ok((direct / posted, relayed / posted))
    }

    async fn post_all(
        &mut self,
        server: &Server,
        path: &str,
        body: &str,
        count: u32,
    ) -> anyhow::Result<f64> {
        let before = proc::cpu_of_all(&server.roles);
        for _ in 0..count {
            polling::post(&mut self.connection, path, body).await?;
        }
        Ok(proc::cpu_of_all(&server.roles) - before)
    }
}

async fn session(connection: &mut Connection) -> anyhow::Result<String> {
    let sid = polling::handshake(connection).await.context("handshake")?;
    let auth = Auth::Username(format!("relayed {sid}"));
    polling::post(connection, &polling::session_path(&sid), &auth.packet()).await?;
    Ok(sid)
}
