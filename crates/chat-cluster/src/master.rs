//! The master process: from options to a running cluster.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use chat_worker::Backend;
use chat_worker::nodes::{NodeName, NodeRegister};
use sticky_master::{ListenAddress, Master, MasterConfig, MasterHandle, TrustedProxies};
use tokio::sync::oneshot;

use crate::cli::Options;
use crate::node::{self, Memory};
use crate::option_values::WorkspacePolicyChoice;
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
    node_name: String,
    advertise: Option<SocketAddr>,
    worker: WorkerSettings,
}

impl Settings {
    /// Reads what the environment adds. The error is one of usage.
    pub(crate) fn new(options: &Options) -> Result<Settings, String> {
        let listen = options.listen()?;
        let tokens = options.publish_tokens()?;
        let worker = WorkerSettings::new(options, options.store()?, tokens);
        let advertise = options.advertise(&listen)?;
        if advertise.is_some() && !worker.is_shared() {
            return Err("--advertise needs --redis: nodes meet there".to_owned());
        }
        if options.sharded_pubsub && !worker.is_on_redis_cluster() {
            return Err(
                "--sharded-pubsub needs a Redis Cluster: --redis redis+cluster://...".to_owned(),
            );
        }
        if options.redis_wait > 0 && !worker.is_shared() {
            return Err("--redis-wait needs --redis: it waits for its replicas".to_owned());
        }
        if options.workspace_policy == WorkspacePolicyChoice::RedisSet && !worker.is_shared() {
            return Err(
                "--workspace-policy redis-set needs --redis: the sets are there".to_owned(),
            );
        }
        Ok(Settings {
            node_name: options.node_name(&listen),
            listen,
            workers: options.workers(),
            balance: options.balance.into(),
            runtime_dir: options.runtime_dir(),
            advertise,
            worker,
        })
    }
}

/// Runs until a signal asks it to stop.
pub(crate) fn run(mut settings: Settings, options: &Options) -> anyhow::Result<()> {
    telemetry::start(settings.worker.log_format, settings.worker.log_level);
    // Workers would only find the same mistakes, N times.
    let chat = settings
        .worker
        .chat(&settings.runtime_dir, "master".to_owned())?;
    settings.worker.check_serving()?;
    let node = settings.node()?;
    let known = node.as_ref().and_then(Memory::number);
    let register = settings.worker.register(known).transpose()?;
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
        settings.runtime_dir.clone(),
        command,
    );
    config.balance = settings.balance;
    config.stuck_time = options.stuck_time;
    set_entrance(&mut config, options);
    if node.is_some() {
        config.node = None;
        config.relay = settings.advertise;
    }
    // All tasks of this process run on this thread, inside this span.
    let span = tracing::info_span!("master");
    let _inside = span.enter();
    block_on(serve(config, chat.backend, node.zip(register)))
}

/// How connections come in.
fn set_entrance(config: &mut MasterConfig, options: &Options) {
    config.tls = options.tls_cert.is_some();
    config.proxy_protocol = options.proxy_protocol;
    config.trusted_proxies = TrustedProxies::new(options.trusted_proxy.iter().copied());
    config.affinity_cookie.clone_from(&options.affinity_cookie);
    config.head_time = options.head_timeout;
    config.head_max = options.max_head as usize;
    config.max_connections = options.max_connections;
    config.max_connections_per_address = options.max_connections_per_address;
}

impl Settings {
    /// With Redis: what is remembered of this node. Workers are told its name.
    fn node(&mut self) -> anyhow::Result<Option<Memory>> {
        if !self.worker.is_shared() {
            return Ok(None);
        }
        let memory = Memory::open(&self.runtime_dir, &self.node_name)?;
        self.worker.node = Some(NodeName {
            name: self.node_name.clone(),
            instance: memory.instance.clone(),
            advertise: self.advertise,
        });
        Ok(Some(memory))
    }
}

async fn serve(
    config: MasterConfig,
    store: Backend,
    node: Option<(Memory, NodeRegister)>,
) -> anyhow::Result<()> {
    let mut signals = StopSignals::new().context("cannot handle signals")?;
    let workers = config.workers;
    let runtime_dir = config.runtime_dir.clone();
    let master = Master::bind(config)?;
    // After the runtime directory is known to be ours, before the first worker.
    let _data_dir = store.prepare()?;
    let addresses: Vec<_> = master.urls().collect();
    let handle = master.handle();
    tokio::spawn(announce(
        handle.clone(),
        addresses.join(", "),
        workers,
        store.to_string(),
    ));
    let numbered = node.map(|(memory, mut register)| {
        let handle = handle.clone();
        tokio::spawn(async move {
            node::take_number(&mut register, memory, runtime_dir, handle).await;
            register
        })
    });
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
    if let Some(numbered) = numbered {
        leave(numbered).await;
    }
    tracing::info!("stopped");
    Ok(())
}

/// The workers have ended: others need not take this node for alive until its
/// lease is over.
async fn leave(numbered: tokio::task::JoinHandle<NodeRegister>) {
    if !numbered.is_finished() {
        return numbered.abort();
    }
    if let Ok(mut register) = numbered.await
        && let Err(error) = register.leave().await
    {
        tracing::debug!(%error, "the node's lease runs out by itself");
    }
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
