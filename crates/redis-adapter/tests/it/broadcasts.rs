//! What a broadcast reaches, between two processes on one bus.

use futures_util::FutureExt;
use redis_adapter::{BusError, EmitError};
use socketioxide::BroadcastError;
use tokio::time::Instant;

use crate::client::Client;
use crate::server::{Server, Socket, assert_nothing_more};
use crate::soon;
use crate::stub_bus::Hub;

/// Two servers, each with a client in `common` and in a room of its own.
struct Pair {
    a: Server,
    b: Server,
    on_a: (Client, Socket),
    on_b: (Client, Socket),
    hub: Hub,
}

async fn pair() -> Pair {
    let hub = Hub::default();
    let (mut a, _) = Server::on_stub(&hub);
    let (mut b, _) = Server::on_stub(&hub);
    let on_a = a.member(&["common", "room-a"]).await;
    let on_b = b.member(&["common", "room-b"]).await;
    Pair {
        a,
        b,
        on_a,
        on_b,
        hub,
    }
}

impl Pair {
    /// Asserts who got `event` since the last call: nobody got it twice, or
    /// anything else.
    async fn assert_got(&mut self, event: &str, on_a: bool, on_b: bool) {
        // Whatever was published before this has been dispatched after it.
        let flush = self.a.state.broadcast_event("/", &[], &[], "flush", &0);
        soon(flush).await.unwrap();
        for (client, got) in [(&mut self.on_a.0, on_a), (&mut self.on_b.0, on_b)] {
            if got {
                assert_eq!(client.json().await, event);
            }
            assert_eq!(client.json().await, r#"["flush",0]"#);
        }
    }
}

#[tokio::test]
async fn everyone_a_room_several_rooms_and_except() {
    let mut pair = pair().await;
    type Case = (&'static [&'static str], &'static [&'static str], bool, bool);
    let cases: [Case; 8] = [
        (&[], &[], true, true),
        (&["room-a"], &[], true, false),
        (&["room-b"], &[], false, true),
        (&["room-a", "room-b"], &[], true, true),
        (&["common", "room-b", "room-b"], &[], true, true),
        (&["common"], &["room-b"], true, false),
        (&[], &["room-a", "room-b"], false, false),
        (&["nobody"], &[], false, false),
    ];
    for (rooms, except, on_a, on_b) in cases {
        let sent = pair.a.state.broadcast_event("/", rooms, except, "e", &1);
        soon(sent).await.unwrap();
        pair.assert_got(r#"["e",1]"#, on_a, on_b).await;
    }
}

#[tokio::test]
async fn socketioxides_own_operators_cross_the_bus() {
    let mut pair = pair().await;
    pair.a.io.emit("e", &("x", 2)).await.unwrap();
    pair.assert_got(r#"["e","x",2]"#, true, true).await;
    pair.a.io.to("room-b").emit("e", &1).await.unwrap();
    pair.assert_got(r#"["e",1]"#, false, true).await;
    pair.a.io.except("room-b").emit("e", &1).await.unwrap();
    pair.assert_got(r#"["e",1]"#, true, false).await;
    pair.a.io.local().emit("e", &1).await.unwrap();
    pair.assert_got(r#"["e",1]"#, true, false).await;
    // From a socket: everyone in the room but itself.
    let socket = pair.on_a.1.clone();
    socket.to("common").emit("e", &1).await.unwrap();
    pair.assert_got(r#"["e",1]"#, false, true).await;
    socket.within("common").emit("e", &1).await.unwrap();
    pair.assert_got(r#"["e",1]"#, true, true).await;
}

#[tokio::test]
async fn a_socket_is_a_room_by_its_id() {
    let mut pair = pair().await;
    let (on_a, on_b) = (pair.on_a.1.id.to_string(), pair.on_b.1.id.to_string());
    let sent = pair.a.state.broadcast_event("/", &[&on_a], &[], "e", &1);
    soon(sent).await.unwrap();
    pair.assert_got(r#"["e",1]"#, true, false).await;
    let rooms = ["nobody", &on_b];
    soon(pair.a.state.broadcast_event("/", &rooms, &[], "e", &1))
        .await
        .unwrap();
    pair.assert_got(r#"["e",1]"#, false, true).await;
    soon(pair.a.state.broadcast_event("/", &[], &[&on_b], "e", &1))
        .await
        .unwrap();
    pair.assert_got(r#"["e",1]"#, true, false).await;
}

#[tokio::test]
async fn binary_and_volatile_cross_the_bus() {
    let mut pair = pair().await;
    let data = (bytes::Bytes::from_static(b"\x00\xff"), "text");
    soon(
        pair.a
            .state
            .broadcast_event("/", &["room-b"], &[], "bin", &data),
    )
    .await
    .unwrap();
    let event = pair.on_b.0.event().await;
    assert_eq!(
        event.json,
        r#"["bin",{"_placeholder":true,"num":0},"text"]"#
    );
    assert_eq!(event.attachments, [b"\x00\xff"]);
    pair.a
        .io
        .to("room-b")
        .volatile()
        .emit("tick", &1)
        .await
        .unwrap();
    assert_eq!(pair.on_b.0.json().await, r#"["tick",1]"#);
}

#[tokio::test]
async fn namespaces_are_apart() {
    let mut pair = pair().await;
    let (mut orders, socket) = pair.b.client_in("/orders").await;
    soon(pair.b.state.join(&socket, &["common"])).await.unwrap();
    for rooms in [&["common"][..], &[]] {
        soon(
            pair.a
                .state
                .broadcast_event("/orders", rooms, &[], "order", &7),
        )
        .await
        .unwrap();
        let event = orders.event().await;
        assert_eq!(
            (&*event.namespace, &*event.json),
            ("/orders", r#"["order",7]"#)
        );
    }
    pair.assert_got("", false, false).await;
    assert_nothing_more(&mut orders, &socket).await;
    let unknown = soon(pair.a.state.broadcast_event("/none", &[], &[], "e", &1)).await;
    assert!(matches!(unknown, Err(EmitError::UnknownNamespace(_))));
}

#[tokio::test]
async fn local_clients_are_served_before_and_without_the_bus() {
    let hub = Hub::default();
    let (mut server, bus) = Server::on_stub(&hub);
    let (mut client, _socket) = server.member(&["r"]).await;

    // Not confirmed yet, and never polled: local clients have it all the same.
    bus.confirm(false);
    let pending = server.state.broadcast_event("/", &["r"], &[], "e", &1);
    assert_eq!(client.json().await, r#"["e",1]"#);
    assert_eq!(bus.published().len(), 1);
    bus.confirm(true);
    soon(pending).await.unwrap();

    bus.refuse(true);
    let refused = soon(server.state.broadcast_event("/", &["r"], &[], "e", &2)).await;
    assert!(matches!(refused, Err(EmitError::Bus(BusError::Refused(_)))));
    assert_eq!(client.json().await, r#"["e",2]"#);
    let refused = soon(server.io.to("r").emit("e", &3)).await;
    assert!(matches!(refused, Err(BroadcastError::Adapter(_))));
    assert_eq!(client.json().await, r#"["e",3]"#);
}

#[tokio::test]
async fn one_room_goes_to_its_channel_and_all_else_to_the_base_channel() {
    let hub = Hub::default();
    let (server, bus) = Server::on_stub(&hub);
    let everyone = (&[][..], "socket.io#/#");
    for (rooms, channel) in [
        everyone,
        (&["r"], "socket.io#/#r#"),
        (&["r", "r"], "socket.io#/#r#"),
        (&["r", "s"], "socket.io#/#"),
    ] {
        soon(server.state.broadcast_event("/", rooms, &[], "e", &1))
            .await
            .unwrap();
        assert_eq!(bus.published().pop().unwrap(), channel);
    }
    let before = bus.published().len();
    server.io.local().emit("e", &1).await.unwrap();
    let nobody: [&str; 0] = [];
    server
        .io
        .of("/")
        .unwrap()
        .within(nobody.to_vec())
        .local()
        .emit("e", &1)
        .await
        .unwrap();
    assert_eq!(
        bus.published().len(),
        before,
        "local broadcasts are not published"
    );
}

#[tokio::test]
async fn malformed_messages_are_counted_and_harm_nothing() {
    let mut pair = pair().await;
    let deep = [&[0x93, 0xa1, b'x'][..], &[0x91; 100_000]].concat();
    let hostile: [&[u8]; 7] = [
        b"",
        b"{}",
        b"\x93\xa1x",
        b"\x93\xa1x\x80\x80",
        b"\x93\xa1x\x83\xa4type\x02\xa4data\x91\xa1e\xa3nsp\xa2/x\x80",
        b"\x93\xa1x\x82\xa4type\x00\xa4data\x91\xa1e\x80",
        &deep,
    ];
    for message in hostile {
        pair.hub.send("socket.io#/#", message);
    }
    pair.assert_got("", false, false).await;
    assert_eq!(pair.a.state.counters().malformed, hostile.len() as u64);
    assert_eq!(pair.b.state.counters().malformed, hostile.len() as u64);
}

#[tokio::test]
async fn a_packet_is_decoded_only_for_members() {
    let pair = pair().await;
    // Broken inside the packet, but for a room that has no member here.
    let for_nobody = b"\x93\xa1x\x81\xa4data\xd4\x07\x00\x81\xa5rooms\x92\xa1n\xa1m";
    pair.hub.send("socket.io#/#", for_nobody);
    let for_common = b"\x93\xa1x\x81\xa4data\xd4\x07\x00\x81\xa5rooms\x92\xa1n\xa6common";
    pair.hub.send("socket.io#/#", for_common);
    let mut pair = pair;
    pair.assert_got("", false, false).await;
    assert_eq!(pair.a.state.counters().malformed, 1);
}

#[tokio::test]
async fn gaps_are_told_to_the_application() {
    let hub = Hub::default();
    let (server, bus) = Server::on_stub(&hub);
    let since = Instant::now();
    bus.events().down();
    bus.events().gap(since);
    assert_eq!(soon(server.state.missed()).await.since(), since);
    assert_eq!(server.state.counters().gaps, 1);
    assert!(server.state.missed().now_or_never().is_none());
    assert!(server.state.bus().is_up());
}

#[tokio::test]
async fn a_channel_of_the_applications_own_is_heard_as_it_was_published() {
    let hub = Hub::default();
    let (server, bus) = Server::on_stub(&hub);
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    server.state.listen("chat", move |message| {
        let _ = sender.send(message.clone());
    });
    assert!(bus.channels().contains("chat"));
    // Neither is an adapter's message.
    hub.send("chat", b"{\"from\":\"outside\"}");
    let own = bytes::Bytes::from_static(b"ours");
    let published = server.state.bus().publish("chat".into(), own.clone());
    published.await.unwrap();
    assert_eq!(
        soon(heard.recv()).await.unwrap(),
        &b"{\"from\":\"outside\"}"[..]
    );
    assert_eq!(soon(heard.recv()).await.unwrap(), own);
    assert_eq!(server.state.counters().malformed, 0);
}
