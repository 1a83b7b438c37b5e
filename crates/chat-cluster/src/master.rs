//! The master process: from options to a running cluster.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use chat_worker::Backend;
use sticky_master::{ListenAddress, Master, MasterConfig, MasterHandle};
use tokio::sync::oneshot;

use crate::cli::Options;
use crate::signals::{StopSignals, block_on};
use crate::telemetry;
use crate::worker::{self, WorkerSettings};

/// Options with all defaults filled in.
#[derive(Debug)]
pub(crate) struct Settings {
    listen: Vec<ListenAddress>,
    workers: usize,
    balance: sticky_master::Balance,
    runtime_dir: PathBuf,
    worker: WorkerSettings,
}

impl Settings {
    /// Reads what the environment adds. The error is one of usage.
    pub(crate) fn new(options: &Options) -> Result<Settings, String> {
        Ok(Settings {
            listen: options.listen()?,
            workers: options.workers(),
            balance: options.balance.into(),
            runtime_dir: options.runtime_dir(),
            worker: WorkerSettings::new(options, options.store()?),
        })
    }
}

/// Runs until a signal asks it to stop.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    telemetry::start(settings.worker.log_format, settings.worker.log_level);
    // Workers would only find the same mistakes, N times.
    let chat = settings
        .worker
        .chat(&settings.runtime_dir, "master".to_owned())?;
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let environment = settings.worker.to_environment()?;
    let command = move || {
        let mut command = Command::new(&program);
        command.arg("worker").env(worker::SETTINGS, &environment);
        command
    };
    let mut config = MasterConfig::new(
        settings.listen,
        settings.workers,
        settings.runtime_dir,
        command,
    );
    config.balance = settings.balance;
    // All tasks of this process run on this thread, inside this span.
    let span = tracing::info_span!("master");
    let _inside = span.enter();
    block_on(serve(config, chat.backend))
}

async fn serve(config: MasterConfig, store: Backend) -> anyhow::Result<()> {
    let mut signals = StopSignals::new().context("cannot handle signals")?;
    let workers = config.workers;
    let master = Master::bind(config)?;
    // After the runtime directory is known to be ours, before the first worker.
    let _data_dir = store.prepare()?;
    let addresses: Vec<_> = master.addresses().map(ToString::to_string).collect();
    let handle = master.handle();
    tokio::spawn(announce(
        handle.clone(),
        addresses.join(", "),
        workers,
        store.to_string(),
    ));
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        let signal = signals.next().await;
        tracing::info!(signal, "asked to stop");
        let _ = stop.send(());
        let signal = signals.next().await;
        tracing::warn!(signal, "asked again: stopping at once");
        handle.kill();
    });
    let stopped = async {
        let _ = stopped.await;
    };
    master.run(stopped).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Prints the one line that says where the chat is.
async fn announce(handle: MasterHandle, addresses: String, workers: usize, store: String) {
    handle.all_ready().await;
    let plural = if workers == 1 { "" } else { "s" };
    let mut out = std::io::stdout().lock();
    // Whoever closed standard output does not want to know.
    let _ = writeln!(
        out,
        "chat-cluster is ready at {addresses} ({workers} worker{plural}, store {store})"
    );
    let _ = out.flush();
}
