//! The master process: from options to a running cluster.

use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chat_worker::nodes::{NodeName, NodeRegister};
use chat_worker::{Backend, ChatConfig};
use common::runtime_dir::RuntimeDir;
use sticky_master::handover::Handover;
use sticky_master::{
    Balance, ListenAddress, Listener, Master, MasterConfig, Outcome, TrustedProxies,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::Admin;
use crate::cli::Options;
use crate::node::{self, Memory};
use crate::operator::Operator;
use crate::option_values::WorkspacePolicyChoice;
use crate::service_manager::{NOTIFY_VARIABLES, SOCKET_VARIABLES};
use crate::signals::{Asked, Signals, block_on};
use crate::upgrade::{Identity, Program, VERSION};
use crate::worker::{self, Secrets, WorkerSettings};
use crate::{control, service_manager, telemetry};

/// The service manager is told after that long that the cluster is up, also when
/// workers still wait for their store: it would kill what is only patient.
const READY_TIME: Duration = Duration::from_secs(30);

/// Options with all defaults filled in.
#[derive(Debug)]
pub(crate) struct Settings {
    listen: Vec<ListenAddress>,
    workers: usize,
    balance: Balance,
    runtime_dir: PathBuf,
    node_name: String,
    advertise: Option<SocketAddr>,
    admin: Option<ListenAddress>,
    worker: WorkerSettings,
}

impl Settings {
    /// Reads what the environment adds. `passed`: a service manager passed sockets.
    /// The error is one of usage.
    pub(crate) fn new(options: &Options, passed: bool) -> Result<Settings, String> {
        let listen = options.listen(passed)?;
        let secrets = Secrets {
            publish_tokens: options.publish_tokens()?,
            cluster_secret: options.cluster_secret()?,
        };
        if options.tls_cert.is_some() != options.tls_key.is_some() {
            return Err("--tls-cert and --tls-key go together".to_owned());
        }
        let worker = WorkerSettings::new(options, options.store()?, secrets);
        let advertise = options.advertise(&listen)?;
        if advertise.is_some() && !worker.has_cluster_secret() {
            return Err(
                "--advertise needs --cluster-secret: nodes prove that they know it".to_owned(),
            );
        }
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
        let balance = Balance::from(options.balance);
        let keeps_clients = balance.keeps_clients(options.affinity_cookie.as_deref());
        if options.rebalance.is_some() && keeps_clients {
            return Err("--rebalance is of no use with --balance client-hash or \
                        --affinity-cookie: clients would come back to the same worker"
                .to_owned());
        }
        Ok(Settings {
            node_name: options.node_name(&listen),
            listen,
            workers: options.workers(),
            balance,
            runtime_dir: options.runtime_dir(),
            advertise,
            admin: options.admin.clone(),
            worker,
        })
    }
}

/// What this process began with.
#[derive(Debug, Default)]
pub(crate) struct Beginning {
    /// What the program before in this process left.
    handover: Option<Handover>,
    /// The sockets that a service manager passed.
    sockets: Vec<OwnedFd>,
}

impl Beginning {
    /// Takes it; before anything is opened.
    pub(crate) fn take() -> anyhow::Result<Beginning> {
        Ok(match Handover::from_environment() {
            Some(handover) => Beginning {
                handover: Some(handover?),
                sockets: Vec::new(),
            },
            None => Beginning {
                handover: None,
                sockets: service_manager::passed_sockets()
                    .context("the service manager's sockets cannot be taken")?,
            },
        })
    }

    /// Whether there are sockets besides those that are asked for.
    pub(crate) fn has_sockets(&self) -> bool {
        !self.sockets.is_empty()
    }
}

/// Says that this program understands the command line, and what it is.
pub(crate) fn preflight(settings: &Settings) -> anyhow::Result<()> {
    settings.check()?;
    println!("{}", serde_json::to_string(&Identity::own())?);
    Ok(())
}

/// Runs until a signal asks it to stop.
pub(crate) fn run(
    mut settings: Settings,
    options: &Options,
    beginning: Beginning,
) -> anyhow::Result<()> {
    telemetry::start(settings.worker.log_format, settings.worker.log_level);
    // Workers would only find the same mistakes, N times.
    let chat = settings.check()?;
    let node = settings.node()?;
    let known = node.as_ref().and_then(Memory::number);
    let register = settings.worker.register(known).transpose()?;
    let program = Program::own().context("cannot find this program's file")?;
    let program = Arc::new(program);
    let environment = settings.worker.to_environment()?;
    let path = program.path.clone();
    let command = move || {
        let mut command = Command::new(&path);
        command.arg("worker").env(worker::SETTINGS, &environment);
        for name in SOCKET_VARIABLES.iter().chain(&NOTIFY_VARIABLES) {
            command.env_remove(name);
        }
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
    config.drain_time = options.drain_time;
    config.rebalance = options.rebalance;
    set_entrance(&mut config, options);
    if node.is_some() {
        config.node = None;
        config.relay = settings.advertise;
    }
    // All tasks of this process run on this thread, inside this span.
    let span = tracing::info_span!("master");
    let _inside = span.enter();
    let serving = Serving {
        config,
        admin: settings.admin,
        store: chat.backend,
        program,
    };
    block_on(serving.serve(beginning, node.zip(register)))
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
    config.max_new_connections_per_address = options.max_new_connections_per_address;
}

impl Settings {
    /// Finds mistakes before anything is started. The error is one line.
    pub(crate) fn check(&self) -> anyhow::Result<ChatConfig> {
        let chat = self.worker.chat(&self.runtime_dir, "master".to_owned())?;
        self.worker.check_serving()?;
        Ok(chat)
    }

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

/// What a master runs with.
struct Serving {
    config: MasterConfig,
    admin: Option<ListenAddress>,
    store: Backend,
    program: Arc<Program>,
}

impl Serving {
    async fn serve(
        self,
        beginning: Beginning,
        node: Option<(Memory, NodeRegister)>,
    ) -> anyhow::Result<()> {
        let signals = Signals::new().context("cannot handle signals")?;
        let runtime_dir = &self.config.runtime_dir;
        let (mut master, mut before) = match beginning.handover {
            Some(mut handover) => {
                let before = Before {
                    version: std::mem::take(&mut handover.note),
                    asked: std::mem::take(&mut handover.descriptors),
                };
                let master = Master::take_over(self.config.clone(), handover)?;
                (master, Some(before))
            }
            None => {
                let master = Master::bind_beside(self.config.clone(), beginning.sockets)?;
                (master, None)
            }
        };
        // After the runtime directory is known to be ours, before the first worker.
        let _data_dir = self.store.prepare()?;
        let numbered = node.map(|(memory, mut register)| {
            let (handle, runtime_dir) = (master.handle(), runtime_dir.clone());
            tokio::spawn(async move {
                node::take_number(&mut register, memory, runtime_dir, handle).await;
                register
            })
        });
        tokio::spawn(service_manager::keep_watchdog_quiet());
        let operator = watch::Sender::new(self.operator(&master));
        let (stop, mut stopped) = watch::channel(false);
        tokio::spawn(hear(signals, operator.subscribe(), stop));
        if let Some(address) = &self.admin {
            let listener = Listener::private(address)?;
            tracing::info!(address = %listener.address(), "monitoring can ask");
            let admin = Admin {
                operator: operator.subscribe(),
                stopping: stopped.clone(),
            };
            tokio::spawn(admin.serve(listener));
        }
        loop {
            operator.send_replace(self.operator(&master));
            let operator = operator.borrow().clone();
            let control = control::listen(runtime_dir)?;
            let mut beside = JoinSet::new();
            let (urls, store) = (master.urls().collect(), self.store.to_string());
            beside.spawn(announce(operator.clone(), urls, store, before.take()));
            beside.spawn(control::serve(control, operator.clone()));
            let asked_to_stop = async {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            let mut handover = match master.run(asked_to_stop).await? {
                Outcome::Stopped => break,
                Outcome::HandedOver(handover) => handover,
            };
            VERSION.clone_into(&mut handover.note);
            handover.descriptors = operator.take_waiting();
            // Else the next program would know nothing of the wish.
            let why = match *stopped.borrow() {
                true => "the cluster is about to stop".to_owned(),
                false => {
                    let Err(error) = self.program.execute(&handover);
                    format!("{}: {error}", self.program.path.display())
                }
            };
            tracing::error!(error = why, "no upgrade; everything runs on as it was");
            for asks in handover.descriptors.drain(..) {
                control::answer(asks, Err(why.clone())).await;
            }
            master = Master::take_over(self.config.clone(), handover)?;
        }
        if let Some(numbered) = numbered {
            leave(numbered).await;
        }
        let control = RuntimeDir::open(runtime_dir)?.control_socket();
        let _ = std::fs::remove_file(control);
        tracing::info!("stopped");
        Ok(())
    }

    fn operator(&self, master: &Master) -> Operator {
        Operator::new(master.handle(), self.program.clone())
    }
}

/// Does what signals ask. The first that asks to stop is told; one more ends
/// everything at once.
async fn hear(
    mut signals: Signals,
    operator: watch::Receiver<Operator>,
    stop: watch::Sender<bool>,
) {
    loop {
        let asked = signals.next().await;
        let operator = operator.borrow().clone();
        match asked {
            Asked::Stop(signal) if stop.send_replace(true) => {
                tracing::warn!(signal, "asked again: stopping at once");
                operator.kill();
            }
            Asked::Stop(signal) => {
                tracing::info!(signal, "asked to stop");
                service_manager::stopping();
            }
            Asked::Reload => {
                tracing::info!("SIGHUP: asked to reload");
                tokio::spawn(async move { operator.reload().await });
            }
            Asked::Upgrade => {
                tracing::info!("SIGUSR2: asked to upgrade");
                tokio::spawn(async move { operator.upgrade(None).await });
            }
        }
    }
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

/// The program that this process was before an upgrade.
struct Before {
    version: String,
    /// Who asked for the upgrade, and waits for an answer.
    asked: Vec<OwnedFd>,
}

/// Says that the cluster is there: to the service manager, and on the one line that
/// says where the chat is, or to who asked for the upgrade. Then keeps the service
/// manager's line on it true.
async fn announce(operator: Operator, urls: Vec<String>, store: String, before: Option<Before>) {
    let urls = urls.join(", ");
    let ready = tokio::time::timeout(READY_TIME, operator.all_ready()).await;
    service_manager::ready(&operator.status());
    if ready.is_err() {
        tracing::warn!(status = operator.status(), "not all workers are ready yet");
        operator.all_ready().await;
    }
    match before {
        Some(before) => {
            let message = format!(
                "upgraded from {} to {VERSION}; the workers run on as they are, \
                 until chat-cluster reload replaces them",
                before.version
            );
            tracing::info!(message);
            for asked in before.asked {
                control::answer(asked, Ok(message.clone())).await;
            }
        }
        None => {
            let workers = operator.workers();
            let mut out = std::io::stdout().lock();
            // Whoever closed standard output does not want to know.
            let _ = writeln!(
                out,
                "chat-cluster is ready at {urls} ({workers}, store {store})"
            );
            let _ = out.flush();
        }
    }
    loop {
        service_manager::status(&format!("{} at {urls}", operator.status()));
        operator.changed().await;
    }
}
