//! The worker in front of socketioxide.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use socketioxide::SocketIo;
use socketioxide::extract::SocketRef;
use sticky_worker::{ClientAddress, ClientHandle, text_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{HttpClient, ask_websocket, ended, polling, read_exactly, websocket};
use crate::stub_master::StubMaster;
use crate::{LONG, until};

/// An application of one namespace that echoes, counts who left and what it sent past its
/// queue, and lets each client ask to be sent away.
fn application(left: Arc<AtomicUsize>, sent_now: Arc<AtomicUsize>) -> axum::Router {
    let (layer, io) = SocketIo::builder()
        .ping_interval(Duration::from_secs(25))
        .build_layer();
    io.ns("/", async move |socket: SocketRef| {
        let address = socket.req_parts().extensions.get::<ClientAddress>();
        assert!(matches!(address, Some(ClientAddress(Some(_)))));
        socket.on(
            "echo",
            async |socket: SocketRef, text: socketioxide::extract::Data<String>| {
                socket.emit("echo", &text.0).unwrap();
            },
        );
        socket.on("away", async |socket: SocketRef| {
            let handle = socket.req_parts().extensions.get::<ClientHandle>();
            handle.unwrap().ask_to_return();
        });
        socket.on(
            "large",
            async |socket: SocketRef, size: socketioxide::extract::Data<usize>| {
                let handle = socket.req_parts().extensions.get::<ClientHandle>();
                let json = format!("\"{}\"", "x".repeat(size.0));
                let text = handle.unwrap().stand_in(json.into());
                socket.emit("echo", "before").unwrap();
                socket.emit("large", &text).unwrap();
                socket.emit("echo", "after").unwrap();
            },
        );
        // The answer to who connects is in the queue by now.
        client(&socket).queued(32);
        socket.on(
            "count",
            async move |socket: SocketRef, to: socketioxide::extract::Data<usize>| {
                for number in 1..=to.0 {
                    let packet = format!(r#"42["n",{number}]"#);
                    // Now and then the queue has been emptied when the next comes.
                    if number % 7 == 0 {
                        tokio::task::yield_now().await;
                    }
                    if number % 3 > 0 && client(&socket).send_now(&text_frame(packet.as_bytes())) {
                        sent_now.fetch_add(1, SeqCst);
                        continue;
                    }
                    socket.emit("n", &number).unwrap();
                    client(&socket).queued(packet.len());
                }
            },
        );
        socket.on_disconnect(async move || {
            left.fetch_add(1, SeqCst);
        });
    });
    axum::Router::new()
        .route("/healthz", axum::routing::get(async || "ok"))
        .layer(layer)
}

fn client(socket: &SocketRef) -> ClientHandle {
    let handle = socket.req_parts().extensions.get::<ClientHandle>();
    handle.unwrap().clone()
}

/// A masked text frame; the mask of zeroes leaves the text as it is.
async fn send_frame(stream: &mut TcpStream, text: &str) {
    let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
    frame.extend(text.as_bytes());
    stream.write_all(&frame).await.unwrap();
}

async fn read_frame(stream: &mut TcpStream) -> String {
    let head = read_exactly(stream, 2).await;
    assert_eq!(head[0], 0x81);
    let length = match head[1] {
        126 => usize::from(stream.read_u16().await.unwrap()),
        127 => stream.read_u64().await.unwrap() as usize,
        short => short.into(),
    };
    String::from_utf8(read_exactly(stream, length).await).unwrap()
}

/// Frames up to one that begins so.
async fn frame(stream: &mut TcpStream, start: &str) -> String {
    loop {
        let frame = read_frame(stream).await;
        if frame.starts_with(start) {
            return frame;
        }
    }
}

/// Polls up to a packet that begins so.
async fn packet(client: &mut HttpClient, sid: &str, start: &str) -> String {
    loop {
        let answer = client.get(&polling(sid)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let found = answer
            .body
            .split('\x1e')
            .find(|packet| packet.starts_with(start));
        if let Some(found) = found {
            return found.to_owned();
        }
    }
}

struct Fixture {
    master: StubMaster,
    worker: crate::stub_master::Running,
    left: Arc<AtomicUsize>,
    sent_now: Arc<AtomicUsize>,
}

impl Fixture {
    async fn new() -> Self {
        let master = StubMaster::new().await;
        let left = Arc::new(AtomicUsize::new(0));
        let sent_now = Arc::default();
        let application = application(left.clone(), Arc::clone(&sent_now));
        let worker = master.start(2, application).await;
        Fixture {
            master,
            worker,
            left,
            sent_now,
        }
    }

    async fn connect(&mut self) -> TcpStream {
        self.master.connect(&mut self.worker.member, true).await
    }

    async fn http(&mut self) -> HttpClient {
        HttpClient::over(self.connect().await).await
    }

    /// A polling client of the namespace.
    async fn polling_client(&mut self) -> (HttpClient, String) {
        let mut client = self.http().await;
        let sid = client.open().await;
        assert_eq!(client.post(&polling(&sid), "40").await.body, "ok");
        packet(&mut client, &sid, "40").await;
        (client, sid)
    }

    /// A WebSocket client of the namespace.
    async fn websocket_client(&mut self) -> TcpStream {
        let mut stream = self.connect().await;
        let head = ask_websocket(&mut stream, &websocket(None)).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(read_frame(&mut stream).await.starts_with(r#"0{"sid":""#));
        send_frame(&mut stream, "40").await;
        frame(&mut stream, "40").await;
        stream
    }

    /// What takes over from polling.
    async fn upgrade(&mut self, sid: &str) -> TcpStream {
        let mut stream = self.connect().await;
        let head = ask_websocket(&mut stream, &websocket(Some(sid))).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        send_frame(&mut stream, "2probe").await;
        assert_eq!(read_frame(&mut stream).await, "3probe");
        send_frame(&mut stream, "5").await;
        stream
    }

    async fn left(&self, expected: usize) {
        until("the disconnect handler", || {
            self.left.load(SeqCst) == expected
        })
        .await;
        let member = &self.worker.member;
        until("the client's entry", || member.clients() == 0).await;
    }
}

#[tokio::test]
async fn a_polling_client_talks_and_is_asked_to_return() {
    let mut fixture = Fixture::new().await;
    let (mut client, sid) = fixture.polling_client().await;
    client.post(&polling(&sid), r#"42["echo","hi"]"#).await;
    assert_eq!(packet(&mut client, &sid, "42").await, r#"42["echo","hi"]"#);
    // A second client polls while the first is asked: nothing happens to it.
    let (mut other, other_sid) = fixture.polling_client().await;
    client.post(&polling(&sid), r#"42["away"]"#).await;
    until("the first client to leave", || {
        fixture.left.load(SeqCst) == 1
    })
    .await;
    until("its entry to end", || fixture.worker.member.clients() == 1).await;
    assert!(client.get(&polling(&sid)).await.is_session_unknown());
    other.post(&polling(&other_sid), r#"42["echo","yo"]"#).await;
    assert_eq!(
        packet(&mut other, &other_sid, "42").await,
        r#"42["echo","yo"]"#
    );
    assert_eq!(other.get("/healthz").await.body, "ok");
}

#[tokio::test]
async fn the_id_that_a_websocket_shows_is_not_one_to_poll_with() {
    let mut fixture = Fixture::new().await;
    let mut stream = fixture.connect().await;
    ask_websocket(&mut stream, &websocket(None)).await;
    let open = read_frame(&mut stream).await;
    let engine_sid = crate::client::sid(&open);
    assert_eq!(engine_sid.len(), 16);
    let mut client = fixture.http().await;
    assert!(client.get(&polling(engine_sid)).await.is_session_unknown());
    assert!(
        client
            .post(&polling(engine_sid), "1")
            .await
            .is_session_unknown()
    );
}

#[tokio::test]
async fn a_websocket_client_talks_and_is_asked_to_return() {
    let mut fixture = Fixture::new().await;
    let mut stream = fixture.websocket_client().await;
    send_frame(&mut stream, r#"42["echo","hi"]"#).await;
    assert_eq!(frame(&mut stream, "42").await, r#"42["echo","hi"]"#);
    send_frame(&mut stream, r#"42["away"]"#).await;
    ended(&mut stream).await;
    fixture.left(1).await;
}

#[tokio::test]
async fn an_upgraded_client_talks_and_is_asked_to_return() {
    let mut fixture = Fixture::new().await;
    let (mut client, sid) = fixture.polling_client().await;
    let mut stream = fixture.upgrade(&sid).await;
    send_frame(&mut stream, r#"42["echo","hi"]"#).await;
    assert_eq!(frame(&mut stream, "42").await, r#"42["echo","hi"]"#);
    assert_eq!(fixture.worker.member.clients(), 1);
    send_frame(&mut stream, r#"42["away"]"#).await;
    ended(&mut stream).await;
    fixture.left(1).await;
    assert!(client.get(&polling(&sid)).await.is_session_unknown());
}

#[tokio::test]
async fn a_farewell_frees_the_client_at_once() {
    let mut fixture = Fixture::new().await;
    let (mut client, sid) = fixture.polling_client().await;
    assert_eq!(client.post(&polling(&sid), "1").await.body, "ok");
    fixture.left(1).await;
}

#[tokio::test]
async fn a_drain_runs_every_disconnect_handler() {
    let mut fixture = Fixture::new().await;
    let (_polling, _) = fixture.polling_client().await;
    let mut stream = fixture.websocket_client().await;
    let (mut poller, sid) = fixture.polling_client().await;
    let poll = tokio::spawn(async move { poller.get(&polling(&sid)).await });
    fixture.worker.shut_down();
    ended(&mut stream).await;
    poll.abort();
    fixture.left(3).await;
    tokio::time::timeout(LONG, fixture.worker.exit())
        .await
        .unwrap();
}

#[tokio::test]
async fn what_stands_for_a_large_packet_is_replaced_in_its_order_on_both_transports() {
    let mut fixture = Fixture::new().await;
    let (mut client, sid) = fixture.polling_client().await;
    let mut stream = fixture.websocket_client().await;
    for size in [1, 200, 70_000] {
        let large = format!(r#"42["large","{}"]"#, "x".repeat(size));
        let expected = [r#"42["echo","before"]"#, &large, r#"42["echo","after"]"#];
        let ask = format!(r#"42["large",{size}]"#);

        send_frame(&mut stream, &ask).await;
        for packet in expected {
            assert!(frame(&mut stream, "42").await == packet);
        }

        client.post(&polling(&sid), ask).await;
        let mut polled = Vec::new();
        while polled.len() < 3 {
            let answer = client.get(&polling(&sid)).await;
            assert_eq!(answer.status, 200);
            let packets = answer.body.split('\x1e').map(str::to_owned);
            polled.extend(packets.filter(|packet| packet.starts_with("42")));
        }
        assert!(polled == expected);
    }
}

/// Asks for numbers over a WebSocket, and reads them in their order.
async fn count(stream: &mut TcpStream, to: usize) {
    send_frame(stream, &format!(r#"42["count",{to}]"#)).await;
    for number in 1..=to {
        assert_eq!(frame(stream, "42").await, format!(r#"42["n",{number}]"#));
    }
}

#[tokio::test]
async fn what_is_sent_past_the_queue_keeps_its_order_on_every_transport() {
    const COUNT: usize = 100;
    let mut fixture = Fixture::new().await;
    // None of a client that polls.
    let (mut client, sid) = fixture.polling_client().await;
    let ask = format!(r#"42["count",{COUNT}]"#);
    client.post(&polling(&sid), ask).await;
    let mut numbers = Vec::new();
    while numbers.len() < COUNT {
        let answer = client.get(&polling(&sid)).await;
        assert_eq!(answer.status, 200);
        let packets = answer.body.split('\x1e').map(str::to_owned);
        numbers.extend(packets.filter(|packet| packet.starts_with("42")));
    }
    let expected: Vec<_> = (1..=COUNT).map(|n| format!(r#"42["n",{n}]"#)).collect();
    assert_eq!(numbers, expected);
    let sent_now = |fixture: &Fixture| fixture.sent_now.swap(0, SeqCst);
    assert_eq!(sent_now(&fixture), 0);

    // Some of one that has upgraded, and of one that began so; the others waited.
    let mut upgraded = fixture.upgrade(&sid).await;
    let mut fresh = fixture.websocket_client().await;
    for stream in [&mut upgraded, &mut fresh] {
        count(stream, COUNT).await;
        let some = sent_now(&fixture);
        assert!(0 < some && some < COUNT * 2 / 3, "{some} of {COUNT}");
    }
}
