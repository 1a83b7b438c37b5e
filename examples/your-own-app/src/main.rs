//! A socketioxide app on every core of a machine. The program is the master, and, where a
//! master has started it, one of its workers.

use std::env;
use std::error::Error;
use std::process::Command;

use axum::{Router, routing::get};
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef};
use sticky_master::{Master, MasterConfig};
use sticky_worker::{Worker, WorkerConfig};

/// Your app: what each worker serves.
fn app() -> Router {
    let (socket_io, io) = SocketIo::new_layer();
    io.ns("/", async |socket: SocketRef| {
        socket.on("echo", async |Data::<String>(text), ack: AckSender| {
            let _ = ack.send(&text);
        });
    });
    let page = get(async || format!("served by process {}\n", std::process::id()));
    Router::new().route("/", page).layer(socket_io)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let interrupted = async { drop(tokio::signal::ctrl_c().await) };
    if env::var_os("STICKY_WORKER_ID").is_some() {
        let worker = Worker::register(WorkerConfig::from_env()?).await?;
        worker.ready();
        worker.run(app(), interrupted).await?;
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
