//! A socketioxide app on every core of a machine. The program is the master, and, where a
//! master has started it, one of its workers.

mod arguments;

use std::env;
use std::error::Error;
use std::process::Command;
use std::time::Duration;

use axum::{Router, routing::get};
use rmpv::Value;
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef, TryData};
use sticky_master::{Master, MasterConfig};
use sticky_worker::{Worker, WorkerConfig};

use crate::arguments::Arguments;

/// Your app: what each worker serves. These are the events that the protocol's test suite asks for.
fn app(ping_interval: Duration, ping_timeout: Duration) -> Router {
    let (socket_io, io) = SocketIo::builder()
        .ping_interval(ping_interval)
        .ping_timeout(ping_timeout)
        .build_layer();
    for namespace in ["/", "/custom"] {
        io.ns(namespace, connected);
    }
    let page = get(async || format!("served by process {}\n", std::process::id()));
    Router::new().route("/", page).layer(socket_io)
}

async fn connected(socket: SocketRef, TryData(auth): TryData<Value>) {
    let auth = auth.unwrap_or(Value::Map(Vec::new()));
    let _ = socket.emit("auth", &auth);
    socket.on(
        "message",
        async |socket: SocketRef, Data(all): Data<Arguments>| {
            let _ = socket.emit("message-back", &all);
        },
    );
    socket.on(
        "message-with-ack",
        async |Data(all): Data<Arguments>, ack: AckSender| {
            let _ = ack.send(&all);
        },
    );
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let interrupted = async { drop(tokio::signal::ctrl_c().await) };
    if env::var_os("STICKY_WORKER_ID").is_some() {
        let mut config = WorkerConfig::from_env()?;
        config.ping_interval = milliseconds("PING_INTERVAL_MS", config.ping_interval)?;
        config.ping_timeout = milliseconds("PING_TIMEOUT_MS", config.ping_timeout)?;
        let app = app(config.ping_interval, config.ping_timeout);
        let worker = Worker::register(config).await?;
        worker.ready();
        worker.run(app, interrupted).await?;
        return Ok(());
    }
    let listen = env::args().nth(1).unwrap_or("127.0.0.1:3000".to_owned());
    let program = env::current_exe()?;
    let command = move || Command::new(&program);
    let runtime_dir = env::temp_dir().join(format!("your-own-app-{}", std::process::id()));
    let master = Master::bind(MasterConfig::new(
        vec![listen.parse()?],
        4,
        runtime_dir,
        command,
    ))?;
    let (handle, urls) = (master.handle(), master.urls().collect::<Vec<_>>());
    tokio::spawn(async move {
        handle.all_ready().await;
        println!("ready at {}", urls.join(", "));
    });
    master.run(interrupted).await?;
    Ok(())
}

fn milliseconds(variable: &str, default: Duration) -> Result<Duration, Box<dyn Error>> {
    match env::var(variable) {
        Ok(text) => Ok(Duration::from_millis(text.parse()?)),
        Err(_) => Ok(default),
    }
}
