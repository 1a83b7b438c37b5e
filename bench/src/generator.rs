//! A generator process: told what to do on standard input, tells what it found on standard output.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::clock;
use crate::open_files;
use crate::scenario::{self, Spec, Window};
use crate::tally::Tally;

const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// What a generator says, a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    /// What the others need to know; it waits for theirs.
    Exchange(Value),
    /// Prepared; it waits for the start.
    Ready,
    /// So many units of a batch are done.
    Progress(u64),
    /// The work is done, its connections still stand; it waits for the stop.
    Finished,
    Done(Tally),
}

/// What a generator is told, after its [`Spec`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Told {
    /// What each of the generators said, in their order.
    Values(Vec<Value>),
    /// The work starts at this time of the clock.
    Start(u64),
    Stop,
}

/// Runs one generator to its end.
pub(crate) fn run() -> anyhow::Result<()> {
    open_files::raise_limit();
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        // A generator that lost one of its clients would measure something else.
        std::process::exit(101);
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let (mut link, spec) = Link::open().await?;
        let tally = scenario::run(Rc::new(spec), &mut link).await?;
        link.say(&Said::Done(tally))
    })
}

/// The generator's end of the line to the process that started it.
pub(crate) struct Link {
    next_progress: u64,
    told: mpsc::UnboundedReceiver<String>,
}

impl Link {
    async fn open() -> anyhow::Result<(Link, Spec)> {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
        let mut lines = BufReader::new(pipe::Receiver::from_owned_fd(stdin)?).lines();
        let first = lines.next_line().await?.context("nothing to do")?;
        let (tell, told) = mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = tell.send(line);
            }
            // Whoever started this is gone: no server should be under load for nobody.
            std::process::exit(1);
        });
        let link = Link {
            next_progress: 0,
            told,
        };
        Ok((link, serde_json::from_str(&first)?))
    }

    fn say(&self, what: &Said) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        serde_json::to_writer(&mut stdout, what)?;
        stdout.write_all(b"\n")?;
        Ok(stdout.flush()?)
    }

    async fn ask(&mut self, what: &Said) -> anyhow::Result<Told> {
        self.say(what)?;
        let line = self.told.recv().await.context("nobody answers")?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Tells all generators, this one included, and gives what each told.
    pub(crate) async fn exchange<T: Serialize + DeserializeOwned>(
        &mut self,
        own: &T,
    ) -> anyhow::Result<Vec<T>> {
        let own = serde_json::to_value(own)?;
        match self.ask(&Said::Exchange(own)).await? {
            Told::Values(values) => {
                let values = values.into_iter().map(serde_json::from_value);
                Ok(values.collect::<Result<_, _>>()?)
            }
            other => bail!("told {other:?} instead of values"),
        }
    }

    /// All is prepared: returns at the start.
    pub(crate) async fn ready(&mut self, spec: &Spec) -> anyhow::Result<Window> {
        match self.ask(&Said::Ready).await? {
            Told::Start(start) => {
                tokio::time::sleep(clock::until(start)).await;
                Ok(spec.measured(start))
            }
            other => bail!("told {other:?} instead of a start"),
        }
    }

    /// So many units are done; told a few times a second.
    pub(crate) fn progress(&mut self, units: u64) -> anyhow::Result<()> {
        let now = clock::now();
        if now < self.next_progress {
            return Ok(());
        }
        self.next_progress = now + PROGRESS_EVERY.as_nanos() as u64;
        self.say(&Said::Progress(units))
    }

    /// The work is done: waits until its connections may be closed.
    pub(crate) async fn finished(&mut self) -> anyhow::Result<()> {
        match self.ask(&Said::Finished).await? {
            Told::Stop => Ok(()),
            other => bail!("told {other:?} instead of a stop"),
        }
    }
}
