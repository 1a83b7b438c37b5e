//! The Redis bus against a real server that is killed, cut off and frozen.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use redis_adapter::{Bus, BusError, BusEvent, EmitError, EventReceiver, RedisBus, RedisBusOptions};
use tokio::time::Instant;

use crate::bus_conformance::{self, Buses, channels, message, next_gap, publish};
use crate::redis_server::RedisServer;
use crate::server::Server;
use crate::soon;

fn options() -> RedisBusOptions {
    RedisBusOptions {
        publish_timeout: Duration::from_millis(500),
        subscribe_timeout: crate::LIMIT,
        ping_interval: Duration::from_millis(200),
        backoff_max: Duration::from_millis(100),
        ..RedisBusOptions::default()
    }
}

fn start(redis: &RedisServer) -> (RedisBus, EventReceiver) {
    RedisBus::start(redis.client(), options())
}

async fn up(bus: &RedisBus, up: bool) {
    soon(bus.watch_up().wait_for(|now| *now == up))
        .await
        .unwrap();
}

impl Buses for RedisServer {
    fn process(&self) -> (Arc<dyn Bus>, EventReceiver) {
        let (bus, events) = start(self);
        (Arc::new(bus), events)
    }
}

#[tokio::test]
async fn redis_conforms() {
    bus_conformance::run(&RedisServer::start()).await;
}

async fn subscribers(redis: &RedisServer, channel: &str) -> u64 {
    let (_, count): (String, u64) = redis.command(&["PUBSUB", "NUMSUB", channel]).await;
    count
}

#[tokio::test]
async fn subscriptions_are_exact_and_confirmed_by_redis_itself() {
    let redis = RedisServer::start();
    let (bus, _events) = start(&redis);
    up(&bus, true).await;
    let many: Vec<String> = (0..3000).map(|number| format!("c{number}")).collect();
    let all =
        futures_util::future::try_join_all(many.chunks(7).map(|some| bus.subscribe(some.to_vec())));
    soon(all).await.unwrap();
    for channel in ["c0", "c1500", "c2999"] {
        assert_eq!(subscribers(&redis, channel).await, 1);
    }
    let patterns: u64 = redis.command(&["PUBSUB", "NUMPAT"]).await;
    assert_eq!(patterns, 0);

    redis.freeze();
    let mut frozen = bus.subscribe(channels(&["late"]));
    let mut unconfirmed = publish(&bus, "late", "x").boxed();
    assert!((&mut frozen).now_or_never().is_none());
    assert!((&mut unconfirmed).now_or_never().is_none());
    redis.thaw();
    soon(frozen).await.unwrap();
    assert_eq!(subscribers(&redis, "late").await, 1);
}

#[tokio::test]
async fn a_killed_redis_is_a_gap_and_everything_is_subscribed_again() {
    let mut redis = RedisServer::start();
    let (bus, mut events) = start(&redis);
    soon(bus.subscribe(channels(&["a", "gone"]))).await.unwrap();
    up(&bus, true).await;
    soon(publish(&bus, "a", "first")).await.unwrap();
    assert_eq!(soon(events.recv()).await, Some(message("a", "first")));
    let killed = Instant::now();
    redis.kill();
    assert_eq!(soon(events.recv()).await, Some(BusEvent::Down));
    up(&bus, false).await;
    let begun = Instant::now();
    assert_eq!(
        soon(publish(&bus, "a", "lost")).await,
        Err(BusError::Timeout)
    );
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "the wait is bounded"
    );
    bus.unsubscribe(channels(&["gone"]));
    let new = bus.subscribe(channels(&["new"]));
    redis.start_again();
    assert!(next_gap(&mut events).await <= killed);
    soon(new).await.unwrap();
    up(&bus, true).await;
    assert_eq!(subscribers(&redis, "gone").await, 0);
    soon(publish(&bus, "a", "again")).await.unwrap();
    soon(publish(&bus, "new", "too")).await.unwrap();
    assert_eq!(soon(events.recv()).await, Some(message("a", "again")));
    assert_eq!(soon(events.recv()).await, Some(message("new", "too")));
}

#[tokio::test]
async fn a_subscriber_that_redis_cuts_off_is_back_with_a_gap() {
    let redis = RedisServer::start();
    let (bus, mut events) = start(&redis);
    soon(bus.subscribe(channels(&["a"]))).await.unwrap();
    for _ in 0..3 {
        let killed: u64 = redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        assert_eq!(killed, 1);
        assert_eq!(soon(events.recv()).await, Some(BusEvent::Down));
        next_gap(&mut events).await;
        soon(publish(&bus, "a", "heard")).await.unwrap();
        assert_eq!(soon(events.recv()).await, Some(message("a", "heard")));
    }
}

#[tokio::test]
async fn a_publisher_that_redis_cuts_off_is_back_by_itself() {
    let redis = RedisServer::start();
    let (bus, _events) = start(&redis);
    // Until it has subscribed to something, a subscriber is a normal client to Redis.
    soon(bus.subscribe(channels(&["a"]))).await.unwrap();
    up(&bus, true).await;
    let killed: u64 = redis
        .command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
        .await;
    assert_eq!(killed, 1);
    up(&bus, false).await;
    up(&bus, true).await;
    soon(publish(&bus, "a", "x")).await.unwrap();
}

#[tokio::test]
async fn a_frozen_redis_is_noticed_without_traffic() {
    let redis = RedisServer::start();
    let (bus, mut events) = start(&redis);
    soon(bus.subscribe(channels(&["a"]))).await.unwrap();
    up(&bus, true).await;
    // Not before it was up: what it was asked last was answered shortly before.
    let (before, frozen) = (Instant::now() - options().ping_interval * 2, Instant::now());
    redis.freeze();
    assert_eq!(soon(events.recv()).await, Some(BusEvent::Down));
    up(&bus, false).await;
    assert_eq!(
        soon(publish(&bus, "a", "lost")).await,
        Err(BusError::Timeout)
    );
    redis.thaw();
    let since = next_gap(&mut events).await;
    assert!(since <= frozen, "the last sign of life came before");
    assert!(since >= before, "{:?} too early", before - since);
    up(&bus, true).await;
    // What had reached the frozen server's socket may come out now; not after this.
    soon(publish(&bus, "a", "end")).await.unwrap();
    while soon(events.recv()).await != Some(message("a", "end")) {}
}

#[tokio::test]
async fn redis_may_come_later_than_the_bus() {
    let mut redis = RedisServer::not_started();
    let (bus, mut events) = start(&redis);
    assert_eq!(
        soon(publish(&bus, "a", "lost")).await,
        Err(BusError::Timeout)
    );
    let subscription = bus.subscribe(channels(&["a"]));
    assert!(!bus.is_up());
    redis.start_again();
    soon(subscription).await.unwrap();
    up(&bus, true).await;
    soon(publish(&bus, "a", "first")).await.unwrap();
    // Nothing could be missed before, so there is no gap.
    assert_eq!(soon(events.recv()).await, Some(message("a", "first")));
}

#[tokio::test]
async fn what_redis_refuses_fails_alone() {
    let redis = RedisServer::start();
    let (bus, _events) = start(&redis);
    up(&bus, true).await;
    let rule = ["ACL", "SETUSER", "default", "resetchannels", "&allowed"];
    let _: String = redis.command(&rule).await;
    // Redis cuts the connections whose subscriptions are no longer allowed, not ours.
    let refused = publish(&bus, "secret", "x");
    let allowed = publish(&bus, "allowed", "x");
    assert!(matches!(soon(refused).await, Err(BusError::Refused(_))));
    soon(allowed).await.unwrap();
}

#[tokio::test]
async fn too_much_at_once_is_refused_at_once_and_the_bus_ends_with_its_owner() {
    let redis = RedisServer::not_started();
    let options = RedisBusOptions {
        max_waiting_publishes: 10,
        ..options()
    };
    let (bus, mut events) = RedisBus::start(redis.client(), options);
    let waiting: Vec<_> = (0..10).map(|_| publish(&bus, "a", "x")).collect();
    assert_eq!(
        publish(&bus, "a", "x").now_or_never(),
        Some(Err(BusError::QueueFull))
    );
    let subscription = bus.subscribe(channels(&["a"]));
    drop(bus);
    for publish in waiting {
        assert_eq!(soon(publish).await, Err(BusError::Closed));
    }
    assert_eq!(soon(subscription).await, Err(BusError::Closed));
    assert_eq!(soon(events.recv()).await, None);
}

#[tokio::test]
async fn local_clients_go_on_while_redis_is_away_and_all_meet_again() {
    let mut redis = RedisServer::start();
    let server = || {
        let (bus, events) = start(&redis);
        Server::new(Arc::new(bus), events)
    };
    let (mut a, mut b) = (server(), server());
    let (mut client_a, _a) = a.member(&["r"]).await;
    let (mut client_b, _b) = b.member(&["r"]).await;
    soon(a.state.broadcast_event("/", &["r"], &[], "e", &1))
        .await
        .unwrap();
    assert_eq!(client_a.json().await, r#"["e",1]"#);
    assert_eq!(client_b.json().await, r#"["e",1]"#);

    redis.kill();
    let away = soon(a.state.broadcast_event("/", &["r"], &[], "e", &2)).await;
    assert!(matches!(away, Err(EmitError::Bus(_))));
    assert_eq!(client_a.json().await, r#"["e",2]"#);

    redis.start_again();
    soon(b.state.missed()).await;
    soon(a.state.bus().watch_up().wait_for(|up| *up))
        .await
        .unwrap();
    soon(a.state.broadcast_event("/", &["r"], &[], "e", &3))
        .await
        .unwrap();
    assert_eq!(client_a.json().await, r#"["e",3]"#);
    assert_eq!(client_b.json().await, r#"["e",3]"#);
}
