//! A Socket.IO server that shares a Redis with others, be they of this kind or Node's.
//!
//! ```sh
//! cargo run -p redis-adapter --example beside_node -- redis://127.0.0.1/ 127.0.0.1:3001
//! ```
//!
//! Clients join rooms (`join`, a name), speak in them (`say`, `{room, text}`) and ask who is there
//! (`who`, a room; acknowledged). Start it twice, or beside a Node server with
//! `@socket.io/redis-adapter`, and they are one.

use std::sync::Arc;

use redis_adapter::{Adapter, AdapterOptions, AdapterState, RedisBus, RedisBusOptions};
use serde::Deserialize;
use serde_json::json;
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef};

#[derive(Deserialize)]
struct Said {
    room: String,
    text: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(url), Some(address)) = (words.next(), words.next()) else {
        return Err("usage: beside_node REDIS_URL ADDRESS".into());
    };
    let (bus, events) = RedisBus::start(redis::Client::open(url)?, RedisBusOptions::default());
    let options = AdapterOptions {
        name: Some(address.clone()),
        ..AdapterOptions::default()
    };
    let state = AdapterState::new(Arc::new(bus), events, options);
    // What Node's `fetchSockets` shows of ours.
    state.describe(|_, description| description.data = json!({ "served by": "rust" }));
    // What Node sends with `serverSideEmit`.
    state.on_server_side_emit("/", |event| {
        println!("{event:?}");
        if let Err(error) = event.answer("noted") {
            eprintln!("not answered: {error}");
        }
    });
    let (layer, io) = SocketIo::builder()
        .with_adapter::<Adapter>(state.clone())
        .build_layer();
    io.ns("/", async move |socket: SocketRef<Adapter>| {
        connected(&socket, state)
    });
    let app = axum::Router::new().layer(layer);
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

fn connected(socket: &SocketRef<Adapter>, state: AdapterState) {
    state.connected(socket);
    let leaving = state.clone();
    socket.on_disconnect(async move |socket: SocketRef<Adapter>| {
        leaving.disconnected(socket.ns(), socket.id);
    });

    let joining = state.clone();
    socket.on(
        "join",
        async move |socket: SocketRef<Adapter>, Data(room): Data<String>| {
            if let Err(error) = joining.join(&socket, &[room]).await {
                eprintln!("{} did not join: {error}", socket.id);
            }
        },
    );

    let saying = state.clone();
    socket.on("say", async move |Data(Said { room, text }): Data<Said>| {
        let said = saying.broadcast_event("/", &[&room], &[], "said", &text);
        if let Err(error) = said.await {
            eprintln!("other servers may not have heard it: {error}");
        }
    });

    socket.on(
        "who",
        async move |Data(room): Data<String>, ack: AckSender<Adapter>| {
            let sockets = match state.fetch_sockets("/", &[&room], &[]).await {
                Ok(sockets) => sockets,
                Err(error) => {
                    // Who is missing is in the error; the others are there all the same.
                    eprintln!("{error}");
                    error.into_answers().unwrap_or_default()
                }
            };
            let ids: Vec<String> = sockets.into_iter().map(|socket| socket.id).collect();
            let _ = ack.send(&ids);
        },
    );
}
