//! The program is the master, and, where a master has started it, one of its workers.

use socketioxide::extract::{AckSender, Data, SocketRef};
use sticky_master::{Master, MasterConfig};
use sticky_worker::{Worker, WorkerConfig};

fn app() -> axum::Router {
    let (socket_io, io) = socketioxide::SocketIo::new_layer();
    io.ns("/", async |socket: SocketRef| {
        socket.on("hello", async |Data::<String>(name), ack: AckSender| {
            let from = std::process::id();
            let _ = ack.send(&format!("hello {name}, from process {from}"));
        });
    });
    axum::Router::new().layer(socket_io)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let interrupted = async { drop(tokio::signal::ctrl_c().await) };
    if std::env::var_os("STICKY_WORKER_ID").is_some() {
        let worker = Worker::register(WorkerConfig::from_env()?).await?;
        worker.ready();
        worker.run(app(), interrupted).await?;
        return Ok(());
    }
    let program = std::env::current_exe()?;
    let command = move || std::process::Command::new(&program);
    let listen = vec!["127.0.0.1:3000".parse()?];
    let config = MasterConfig::new(listen, 2, "/tmp/my-chat".into(), command);
    Master::bind(config)?.run(interrupted).await?;
    Ok(())
}
