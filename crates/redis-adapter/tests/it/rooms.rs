//! Joins, leaves, and the subscriptions that follow from them.

use futures_util::FutureExt;
use socketioxide_core::Sid;

use crate::server::{Server, assert_nothing_more};
use crate::soon;
use crate::stub_bus::{Hub, StubBus};

/// What is subscribed for as long as the namespaces of a [`Server`] exist.
const BASE: [&str; 7] = [
    "socket.io-node#",
    "socket.io#/#",
    "socket.io-request#/#",
    "socket.io-response#/#",
    "socket.io#/orders#",
    "socket.io-request#/orders#",
    "socket.io-response#/orders#",
];

/// The rooms of `/` whose channels are subscribed, but for those of single sockets.
fn rooms(bus: &StubBus) -> Vec<String> {
    let mut channels = bus.channels();
    for base in BASE {
        assert!(channels.remove(base), "{base} is always subscribed");
    }
    let rooms = channels.iter().filter_map(|channel| {
        let room = channel.strip_prefix("socket.io#/#")?;
        room.strip_suffix('#')
    });
    let rooms = rooms.filter(|room| room.parse::<Sid>().is_err());
    rooms.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_room_is_subscribed_from_its_first_member_to_its_last() {
    let (mut server, bus) = Server::on_stub(&Hub::default());
    let (_client_a, a) = server.member(&["r", "s"]).await;
    let (client_b, _b) = server.member(&["r"]).await;
    assert_eq!(rooms(&bus), ["r", "s"]);
    server.state.leave(&a, &["r", "s", "never joined"]);
    assert_eq!(rooms(&bus), ["r"]);
    client_b.leave("/").await;
    let gone = server.socket_gone().await;
    assert!(rooms(&bus).is_empty());
    server.state.disconnected("/", gone.id);
    assert!(rooms(&bus).is_empty());
}

#[tokio::test]
async fn a_join_takes_effect_when_the_subscription_is_confirmed() {
    let (mut server, bus) = Server::on_stub(&Hub::default());
    let (mut client, socket) = server.client().await;
    bus.confirm(false);
    let mut join = server.state.join(&socket, &["r"]);
    assert!((&mut join).now_or_never().is_none());
    assert_eq!(rooms(&bus), ["r"], "subscribed at the call");
    server.io.to("r").local().emit("early", &1).await.unwrap();
    bus.confirm(true);
    soon(join).await.unwrap();
    server.io.to("r").local().emit("late", &1).await.unwrap();
    assert_eq!(client.json().await, r#"["late",1]"#);
}

#[tokio::test]
async fn a_join_that_is_refused_or_dropped_leaves_nothing_behind() {
    let (mut server, bus) = Server::on_stub(&Hub::default());
    let (mut client, socket) = server.client().await;
    bus.confirm(false);
    let join = server.state.join(&socket, &["r"]);
    assert_eq!(rooms(&bus), ["r"]);
    drop(join);
    assert!(rooms(&bus).is_empty());
    bus.refuse(true);
    assert!(soon(server.state.join(&socket, &["r"])).await.is_err());
    assert!(rooms(&bus).is_empty());
    server.io.to("r").local().emit("e", &1).await.unwrap();
    assert_nothing_more(&mut client, &socket).await;
}

#[tokio::test]
async fn a_join_that_races_an_unsubscription_ends_subscribed() {
    let hub = Hub::default();
    let (mut server, bus) = Server::on_stub(&hub);
    let (_client_a, a) = server.member(&["r"]).await;
    let (mut client_b, b) = server.client().await;
    bus.confirm(false);
    let join = server.state.join(&b, &["r"]);
    server.state.leave(&a, &["r"]);
    assert_eq!(rooms(&bus), ["r"]);
    bus.confirm(true);
    soon(join).await.unwrap();
    let (other, _) = Server::on_stub(&hub);
    soon(other.state.broadcast_event("/", &["r"], &[], "e", &1))
        .await
        .unwrap();
    assert_eq!(client_b.json().await, r#"["e",1]"#);
}

#[tokio::test]
async fn a_socket_that_goes_while_it_joins_is_not_joined() {
    let (mut server, bus) = Server::on_stub(&Hub::default());
    let (client, socket) = server.client().await;
    bus.confirm(false);
    let join = server.state.join(&socket, &["r"]);
    client.leave("/").await;
    server.socket_gone().await;
    assert!(rooms(&bus).is_empty());
    bus.confirm(true);
    soon(join).await.unwrap();
    assert!(server.io.rooms().await.unwrap().is_empty());
    // Nor one that is gone before.
    soon(server.state.join(&socket, &["r"])).await.unwrap();
    assert!(rooms(&bus).is_empty());
    assert!(server.io.rooms().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_client_that_comes_back_with_the_same_id_begins_anew() {
    let (mut server, bus) = Server::on_stub(&Hub::default());
    let (mut client, first) = server.member(&["r"]).await;
    bus.confirm(false);
    let stale = server.state.join(&first, &["s"]);
    client.leave("/").await;
    server.socket_gone().await;
    server.forgotten(&first).await;
    client.enter("/").await;
    let second = server.socket().await;
    assert_eq!(first.id, second.id);
    let join = server.state.join(&second, &["s"]);
    bus.confirm(true);
    soon(stale).await.unwrap();
    assert_eq!(rooms(&bus), ["s"]);
    soon(join).await.unwrap();
    server.io.to("s").emit("e", &1).await.unwrap();
    assert_eq!(client.json().await, r#"["e",1]"#);
}

#[tokio::test]
async fn joins_by_socketioxides_operators_subscribe_too() {
    let (mut server, bus) = Server::on_stub(&Hub::default());
    let (_client, socket) = server.member(&["r"]).await;
    server.io.to("r").join(["s", "t"]).await.unwrap();
    assert_eq!(rooms(&bus), ["r", "s", "t"]);
    assert!(socket.rooms().iter().any(|room| room == "t"));
    server.io.to("s").leave(["s"]).await.unwrap();
    assert_eq!(rooms(&bus), ["r", "t"]);
}

#[tokio::test]
async fn a_deleted_namespace_is_unsubscribed() {
    let (mut server, bus) = Server::on_stub(&Hub::default());
    let (_client, socket) = server.client_in("/orders").await;
    soon(server.state.join(&socket, &["r"])).await.unwrap();
    assert!(bus.channels().contains("socket.io#/orders#r#"));
    server.io.delete_ns("/orders");
    server.socket_gone().await;
    let left = bus.channels();
    let mut left = left.iter().filter(|channel| channel.contains("/orders"));
    assert_eq!(left.next(), None);
}
