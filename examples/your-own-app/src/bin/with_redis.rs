//! The same with redis-adapter: what one client says reaches those of all workers, of all hosts, and of
//! Node servers with `@socket.io/redis-adapter` on the same Redis.
//!
//! `REDIS_URL=redis://127.0.0.1/ cargo run -p your-own-app --bin with_redis`

use std::env;
use std::error::Error;
use std::process::Command;
use std::sync::Arc;

use axum::Router;
use redis_adapter::{Adapter, AdapterOptions, AdapterState, RedisBus, RedisBusOptions};
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef};
use sticky_master::{Master, MasterConfig};
use sticky_worker::{Worker, WorkerConfig};

/// Everybody is in it.
const ROOM: &str = "everybody";

/// Your app: what each worker serves.
fn app(state: AdapterState) -> Router {
    let builder = SocketIo::builder().with_adapter::<Adapter>(state.clone());
    let (socket_io, io) = builder.build_layer();
    io.ns("/", async move |socket: SocketRef<Adapter>| {
        let (at_end, speaks) = (state.clone(), state.clone());
        socket.on_disconnect(async move |socket: SocketRef<Adapter>| {
            at_end.disconnected(socket.ns(), socket.id);
        });
        socket.on(
            "say",
            async move |Data::<String>(text), ack: AckSender<Adapter>| {
                let sent = speaks.broadcast_event("/", &[ROOM], &[], "said", &text);
                let _ = ack.send(&sent.await.is_ok());
            },
        );
        state.connected(&socket);
        let joined = state.join(&socket, &[ROOM]).await;
        let _ = socket.emit("joined", &joined.is_ok());
    });
    Router::new().layer(socket_io)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let interrupted = async { drop(tokio::signal::ctrl_c().await) };
    if env::var_os("STICKY_WORKER_ID").is_some() {
        let redis = redis::Client::open(env::var("REDIS_URL")?)?;
        let (bus, events) = RedisBus::start(redis, RedisBusOptions::default());
        let state = AdapterState::new(Arc::new(bus), events, AdapterOptions::default());
        let worker = Worker::register(WorkerConfig::from_env()?).await?;
        worker.ready();
        worker.run(app(state), interrupted).await?;
        return Ok(());
    }
    let listen = env::args().nth(1).unwrap_or("127.0.0.1:3000".to_owned());
    let program = env::current_exe()?;
    let command = move || Command::new(&program);
    let runtime_dir = env::temp_dir().join(format!("with-redis-{}", std::process::id()));
    let listen = vec![listen.parse()?];
    let master = Master::bind(MasterConfig::new(listen, 4, runtime_dir, command))?;
    let (handle, urls) = (master.handle(), master.urls().collect::<Vec<_>>());
    tokio::spawn(async move {
        handle.all_ready().await;
        println!("ready at {}", urls.join(", "));
    });
    master.run(interrupted).await?;
    Ok(())
}
