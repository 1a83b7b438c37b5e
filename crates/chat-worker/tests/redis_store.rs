//! The store in Redis: what every store has to do, and the keys that others read and write.

mod conformance;
#[allow(dead_code, reason = "each test binary uses its part")]
mod redis_server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chat_worker::chat::message::Message;
use chat_worker::store::redis::{RedisStore, RedisStoreConfig};
use chat_worker::store::{Announce, Health, Position, PresenceChange, Store, StoreError};
use redis::Commands;
use redis_adapter::Publication;

use conformance::{
    Cluster, Lives, PATIENCE, connected, gone, message, session, tend_until_something, unannounced,
};
use redis_server::RedisServer;

impl Cluster for RedisServer {
    fn process_with(&self, lives: Lives) -> Arc<dyn Store> {
        let config = RedisStoreConfig {
            session_ttl: lives.session,
            message_ttl: lives.message,
            history_max: lives.kept,
            ..quick()
        };
        store(self, config)
    }
}

/// Leases that run out while a test waits.
fn quick() -> RedisStoreConfig {
    RedisStoreConfig {
        lease: Duration::from_millis(1500),
        grace: conformance::GRACE,
        tend_interval: Duration::from_millis(200),
        operation_timeout: Duration::from_secs(10),
        ..RedisStoreConfig::default()
    }
}

fn store(server: &RedisServer, config: RedisStoreConfig) -> Arc<dyn Store> {
    RedisStore::start(server.url(), config).unwrap()
}

async fn wait_for_health(store: &Arc<dyn Store>, up: bool) {
    let mut health = store.health();
    tokio::time::timeout(PATIENCE, health.wait_for(|h| (*h == Health::Up) == up))
        .await
        .expect("in time")
        .expect("the store lives");
}

#[tokio::test]
async fn redis_conforms() {
    conformance::run(&RedisServer::start()).await;
}

#[tokio::test]
async fn the_last_to_leave_clears_up() {
    conformance::the_last_to_leave_clears_up(&RedisServer::start()).await;
}

#[tokio::test]
async fn a_process_that_was_taken_for_dead_puts_its_users_back() {
    let cluster = RedisServer::start();
    let (frozen, other) = (cluster.process(), cluster.process());
    let user = session("frozen");
    frozen.connect(&user, "s1").await.unwrap();
    other.tend().await.unwrap();
    assert_eq!(tend_until_something(&other).await, [gone("frozen")]);
    assert_eq!(connected(&other, "frozen").await, Some(false));
    let back = PresenceChange::Back {
        user: user.user.clone(),
        name: user.name.clone(),
    };
    assert_eq!(frozen.tend().await.unwrap(), [back]);
    assert_eq!(connected(&other, "frozen").await, Some(true));
    for _ in 0..3 {
        assert_eq!(other.tend().await.unwrap(), []);
        assert_eq!(frozen.tend().await.unwrap(), []);
    }
    assert!(frozen.disconnect(&user, "s1").await.unwrap());
}

/// The mark that a process of this machine has in its lease.
fn mark(pid: u32) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let pids = std::fs::read_link("/proc/self/ns/pid").unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let behind_the_name = stat.rsplit_once(')').unwrap().1;
    let started = behind_the_name.split_ascii_whitespace().nth(19).unwrap();
    format!("{}/{} {pid} {started}", boot.trim(), pids.display())
}

#[tokio::test]
async fn the_death_of_a_process_of_this_machine_is_noticed_before_its_lease_ends() {
    let cluster = RedisServer::start();
    let patient = RedisStoreConfig {
        lease: Duration::from_secs(3600),
        ..quick()
    };
    let store = store(&cluster, patient);
    store.connect(&session("self"), "s0").await.unwrap();
    let mut redis = cluster.inspect();
    let instances: Vec<String> = redis.smembers("cc:instances").unwrap();
    let own: String = redis.get(format!("cc:instance:{}", instances[0])).unwrap();
    assert_eq!(own, mark(std::process::id()));

    let mut child = std::process::Command::new("sleep")
        .arg("600")
        .spawn()
        .unwrap();
    let _: () = redis.sadd("cc:instances", "other").unwrap();
    let _: () = redis.set("cc:instance:other", mark(child.id())).unwrap();
    let user = session("left");
    let _: () = redis
        .hset(
            "cc:sockets:other",
            "s1",
            format!("{} {}", user.user, user.id),
        )
        .unwrap();
    let _: () = redis
        .hset("cc:presence:{left}", "other s1", &user.id)
        .unwrap();
    assert_eq!(store.tend().await.unwrap(), []);
    assert_eq!(
        redis.get::<_, String>("cc:instance:other").unwrap(),
        mark(child.id())
    );

    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    let gone = PresenceChange::Gone {
        user: user.user,
        // Nobody wrote it.
        name: String::new(),
    };
    assert_eq!(tend_until_something(&store).await, [gone]);
    assert!(killed.elapsed() >= conformance::GRACE);
}

#[tokio::test]
async fn the_keys_are_those_of_the_original_example() {
    let server = RedisServer::start();
    let config = RedisStoreConfig {
        session_ttl: Duration::from_secs(3600),
        message_ttl: Duration::from_secs(7200),
        ..quick()
    };
    let store = store(&server, config);
    let ada = session("ada");
    store.connect(&ada, "s1").await.unwrap();
    let at = store
        .append(message("m1", "ada", "bob"), unannounced())
        .await
        .unwrap()
        .at;

    let mut redis = server.inspect();
    let key = format!("session:{}", ada.id);
    let hash: std::collections::BTreeMap<String, String> = redis.hgetall(&key).unwrap();
    let expected = [
        ("connected", "true"),
        ("userID", "ada"),
        ("username", "ADA"),
    ];
    assert!(
        hash.iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .eq(expected)
    );
    let ttl: i64 = redis.ttl(&key).unwrap();
    assert!((3500..=3600).contains(&ttl), "{ttl}");
    for user in ["ada", "bob"] {
        let key = format!("messages:{user}");
        let entries: Vec<String> = redis.lrange(&key, 0, -1).unwrap();
        let entry =
            format!(r#"{{"id":"m1","content":"content of m1","from":"ada","to":"bob","at":{at}}}"#);
        assert_eq!(entries, [entry]);
        let ttl: i64 = redis.ttl(&key).unwrap();
        assert!((7100..=7200).contains(&ttl), "{ttl}");
    }
    // Of its sender, in the same step with which it was stored for both.
    let ids: i64 = redis.ttl("cc:ids:{messages:ada}").unwrap();
    assert!((500..=600).contains(&ids), "{ids}");
    assert!(!redis.exists::<_, bool>("cc:ids:{messages:bob}").unwrap());
    assert!(store.disconnect(&ada, "s1").await.unwrap());
    let connected: String = redis
        .hget(format!("session:{}", ada.id), "connected")
        .unwrap();
    assert_eq!(connected, "false");
    let keys: Vec<String> = redis.keys("*").unwrap();
    for key in keys {
        let known = ["session:", "messages:", "cc:"];
        assert!(known.iter().any(|prefix| key.starts_with(prefix)), "{key}");
    }
}

#[tokio::test]
async fn what_others_wrote_is_read_or_skipped() {
    let server = RedisServer::start();
    let store = store(&server, quick());
    let mut redis = server.inspect();
    let node = [
        ("userID", "0a1b"),
        ("username", "Node"),
        ("connected", "true"),
    ];
    let _: () = redis.hset_multiple("session:abc", &node).unwrap();
    let _: () = redis
        .hset_multiple(
            "session:def",
            &[
                ("userID", "0a1b"),
                ("username", "Node"),
                ("connected", "false"),
            ],
        )
        .unwrap();
    let _: () = redis.hset("session:half", "userID", "77").unwrap();
    let _: () = redis
        .hset_multiple("session:bad", &[("userID", "a b"), ("username", "x")])
        .unwrap();
    let _: () = redis.set("session:string", "x").unwrap();
    let mut users = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while users.is_empty() {
        assert!(Instant::now() < deadline, "it is not found");
        store.look_around().await.unwrap();
        users = conformance::everybody(&store).await;
    }
    assert_eq!(users.len(), 1);
    assert_eq!(
        (
            users[0].id.as_str(),
            users[0].name.as_str(),
            users[0].connected
        ),
        ("0a1b", "Node", true)
    );
    assert_eq!(
        store.find_session("abc").await.unwrap().unwrap().user,
        "0a1b"
    );
    assert_eq!(store.find_session("half").await.unwrap(), None);

    let old = r#"{"content":"from node","from":"0a1b","to":"x"}"#;
    let _: () = redis
        .rpush("messages:x", &[old, "no json", r#"{"a":1}"#])
        .unwrap();
    store
        .append(message("m1", "x", "0a1b"), unannounced())
        .await
        .unwrap();
    let read = store
        .replay("x", Position::default())
        .await
        .unwrap()
        .messages;
    assert_eq!(read.len(), 2);
    assert_eq!(Some(&read[0]), Message::from_entry(old.as_bytes()).as_ref());
    assert_eq!(read[1].id.as_deref(), Some("m1"));
}

/// Looks around until the session of another program that was written here is found, by which time all
/// others were looked at as often as it takes.
async fn look_until_found(server: &RedisServer, store: &Arc<dyn Store>, user: &str) {
    let fields = [("userID", user), ("username", user), ("connected", "true")];
    let session = format!("session:of-{user}");
    let _: () = server.inspect().hset_multiple(session, &fields).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while connected(store, user).await != Some(true) {
        assert!(Instant::now() < deadline, "it is not found");
        store.look_around().await.unwrap();
    }
}

#[tokio::test]
async fn a_user_of_ours_who_is_leaving_is_not_taken_for_one_of_another_program() {
    let server = RedisServer::start();
    let store = store(&server, quick());
    let ada = session("ada");
    store.connect(&ada, "s1").await.unwrap();
    store.disconnect(&ada, "s1").await.unwrap();
    // As between the two writes of a worker that lets go of a user.
    let mut redis = server.inspect();
    let session = format!("session:{}", ada.id);
    let _: () = redis.hset(&session, "connected", "true").unwrap();
    let changes: u64 = redis.get("cc:{users}:version").unwrap();
    // A whole round; the users of the next one are not looked at before.
    loop {
        let pause = store.look_around().await.unwrap();
        if pause >= Duration::from_millis(500) {
            break;
        }
    }
    assert_eq!(connected(&store, "ada").await, Some(false));
    let _: () = redis.hset(&session, "connected", "false").unwrap();
    look_until_found(&server, &store, "node").await;
    assert_eq!(connected(&store, "ada").await, Some(false));
    let now: u64 = redis.get("cc:{users}:version").unwrap();
    assert_eq!(now, changes + 1, "only the other user is news");
    // One that stays so is theirs.
    let _: () = redis.hset(&session, "connected", "true").unwrap();
    look_until_found(&server, &store, "another").await;
    assert_eq!(connected(&store, "ada").await, Some(true));
}

#[tokio::test]
async fn a_session_lives_while_a_socket_of_it_does() {
    let server = RedisServer::start();
    let config = RedisStoreConfig {
        session_ttl: Duration::from_millis(1500),
        ..quick()
    };
    let store = store(&server, config);
    store.connect(&session("with"), "s1").await.unwrap();
    store.connect(&session("without"), "s2").await.unwrap();
    store.disconnect(&session("without"), "s2").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while store
        .find_session("session-of-without")
        .await
        .unwrap()
        .is_some()
    {
        assert!(Instant::now() < deadline, "never expires");
        store.tend().await.unwrap();
        tokio::time::sleep(store.tend_interval()).await;
    }
    assert!(
        store
            .find_session("session-of-with")
            .await
            .unwrap()
            .is_some()
    );
}

/// The life of a session without a socket used to begin at its last renewal, up to a third of
/// it before the end of the socket.
#[tokio::test]
async fn a_session_has_its_full_life_after_its_last_socket() {
    let server = RedisServer::start();
    let config = RedisStoreConfig {
        session_ttl: Duration::from_secs(3600),
        ..quick()
    };
    let store = store(&server, config);
    let session = session("u");
    let key = format!("session:{}", session.id);
    store.connect(&session, "1").await.unwrap();
    let mut redis = server.inspect();
    let _: bool = redis.expire(&key, 100).unwrap();
    assert!(store.disconnect(&session, "1").await.unwrap());
    let ttl: i64 = redis.ttl(&key).unwrap();
    assert!((3500..=3600).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn a_replay_after_the_list_expired_begins_anew() {
    let server = RedisServer::start();
    let store = store(&server, quick());
    for id in ["e1", "e2"] {
        store
            .append(message(id, "ex", "other"), unannounced())
            .await
            .unwrap();
    }
    let next = store.replay("ex", Position::default()).await.unwrap().next;
    let _: () = server.inspect().del("messages:ex").unwrap();
    for id in ["e3", "e4", "e5"] {
        store
            .append(message(id, "ex", "other"), unannounced())
            .await
            .unwrap();
    }
    let read = store.replay("ex", next).await.unwrap().messages;
    assert_eq!(read.len(), 3);
}

#[tokio::test]
async fn of_a_huge_history_the_newest_is_replayed() {
    let server = RedisServer::start();
    let store = store(&server, quick());
    let entry = |n: usize| {
        let content = "x".repeat(60_000);
        format!(r#"{{"id":"h{n}","content":"{content}","from":"hu","to":"o","at":1}}"#)
    };
    let mut redis = server.inspect();
    for n in 0..300 {
        let _: () = redis.rpush("messages:hu", entry(n)).unwrap();
    }
    let read = store
        .replay("hu", Position::default())
        .await
        .unwrap()
        .messages;
    assert!((50..75).contains(&read.len()), "{}", read.len());
    assert_eq!(read.last().unwrap().id.as_deref(), Some("h299"));
}

#[tokio::test]
async fn ids_are_forgotten_after_the_window_only() {
    let server = RedisServer::start();
    let store = store(&server, quick());
    let mut redis = server.inspect();
    let at = store
        .append(message("new", "a", "b"), unannounced())
        .await
        .unwrap()
        .at;
    let key = "cc:ids:{messages:a}";
    let _: () = redis
        .zadd(key, "a old", at - 10 * 60 * 1000 - 1000)
        .unwrap();
    let _: () = redis.zadd(key, "a young", at - 9 * 60 * 1000).unwrap();
    // Not at each message.
    let deadline = Instant::now() + PATIENCE;
    for n in 0.. {
        store
            .append(message(&format!("n{n}"), "a", "b"), unannounced())
            .await
            .unwrap();
        let kept: Vec<String> = redis.zrange(key, 0, 1).unwrap();
        if kept == ["a young", "a new"] {
            return;
        }
        assert_eq!(kept, ["a old", "a young"]);
        assert!(Instant::now() < deadline, "it is never forgotten");
    }
}

/// A worker that was killed between storing and publishing left its message unheard for ever: the
/// same id again is no news.
#[tokio::test]
async fn a_message_is_announced_with_the_recipients_copy_and_once() {
    let server = RedisServer::start();
    let store = store(&server, quick());
    let mut redis = server.inspect();
    let mut listener = server.inspect();
    let mut heard = listener.as_pubsub();
    heard.subscribe(&["to", "from"]).unwrap();
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    let announce = || -> Announce {
        Box::new(|at| {
            let publication = |channel: &str| Publication {
                channel: channel.into(),
                payload: [b"\0", &at.to_be_bytes()[..], b"\xff"].concat().into(),
            };
            vec![publication("to"), publication("from")]
        })
    };
    let mut next = || {
        let message = heard.get_message().unwrap();
        let payload: Vec<u8> = message.get_payload().unwrap();
        (message.get_channel_name().to_owned(), payload)
    };
    for (id, to) in [("m1", "b"), ("m2", "a")] {
        let new = message(id, "a", to);
        let at = store.append(new.clone(), announce()).await.unwrap().at;
        let payload = [b"\0", &at.to_be_bytes()[..], b"\xff"].concat();
        assert_eq!(next(), ("to".into(), payload.clone()));
        assert_eq!(next(), ("from".into(), payload));
        assert!(!store.append(new, announce()).await.unwrap().fresh);
    }
    let _: () = redis.publish("to", "last").unwrap();
    assert_eq!(next(), ("to".into(), b"last".to_vec()));
}

/// Then both lists and the announcement are written in one step, with the time that Redis gives.
#[tokio::test]
async fn an_announcement_gets_the_time_at_which_its_message_was_stored() {
    let server = RedisServer::start();
    let store = store(&server, quick());
    let mut redis = server.inspect();
    let mut listener = server.inspect();
    let mut heard = listener.as_pubsub();
    heard.subscribe(&["to"]).unwrap();
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    for (id, to) in [("m1", "b"), ("m2", "a"), ("m3", "b")] {
        let announce = Box::new(|at: u64| {
            let payload = [b"<", &at.to_be_bytes()[..], b">"].concat().into();
            let channel = "to".into();
            vec![Publication { channel, payload }]
        });
        let new = message(id, "a", to);
        let stored = store.append(new.clone(), announce).await.unwrap();
        assert!(stored.fresh);
        let payload: Vec<u8> = heard.get_message().unwrap().get_payload().unwrap();
        assert_eq!(payload, [b"<", &stored.at.to_be_bytes()[..], b">"].concat());
        let last: String = redis.lindex(format!("messages:{to}"), -1).unwrap();
        assert_eq!(
            Message::from_entry(last.as_bytes()),
            Some(new.clone().stored(stored.at))
        );
        let again = store.append(new, unannounced()).await.unwrap();
        assert_eq!((again.fresh, again.at), (false, stored.at));
    }
    let lens: (u64, u64) = (
        redis.llen("messages:a").unwrap(),
        redis.llen("messages:b").unwrap(),
    );
    assert_eq!(lens, (3, 2));
}

#[tokio::test]
async fn a_redis_that_comes_later_or_again_is_found() {
    let mut server = RedisServer::stopped();
    let config = RedisStoreConfig {
        operation_timeout: Duration::from_millis(300),
        ..quick()
    };
    let store = store(&server, config);
    let asked = Instant::now();
    assert!(matches!(
        store.recent(0, 1).await,
        Err(StoreError::Unavailable(_))
    ));
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert_ne!(*store.health().borrow(), Health::Up);

    server.launch();
    wait_for_health(&store, true).await;
    store.connect(&session("u"), "s1").await.unwrap();

    server.kill();
    wait_for_health(&store, false).await;
    assert!(store.recent(0, 1).await.is_err());

    server.launch();
    wait_for_health(&store, true).await;
    // Nothing was kept on disk: the scripts, the lease and the sockets have to be put back.
    store
        .append(message("m", "u", "v"), unannounced())
        .await
        .unwrap();
    store.tend().await.unwrap();
    assert_eq!(connected(&store, "u").await, Some(true));
}

#[tokio::test]
async fn a_frozen_redis_costs_bounded_time_and_nothing_else() {
    let server = RedisServer::start();
    let config = RedisStoreConfig {
        operation_timeout: Duration::from_millis(300),
        ..quick()
    };
    let store = store(&server, config);
    store
        .append(message("m1", "a", "b"), unannounced())
        .await
        .unwrap();
    server.signal("STOP");
    let asked = Instant::now();
    let lost = store.append(message("m2", "a", "b"), unannounced()).await;
    assert!(lost.is_err());
    assert!(asked.elapsed() < Duration::from_secs(5));
    wait_for_health(&store, false).await;
    server.signal("CONT");
    wait_for_health(&store, true).await;
    store
        .append(message("m2", "a", "b"), unannounced())
        .await
        .unwrap();
    let read = store
        .replay("b", Position::default())
        .await
        .unwrap()
        .messages;
    assert_eq!(read.len(), 2, "nothing twice: {read:?}");
}

/// Each would only wait, and take memory meanwhile.
#[tokio::test]
async fn of_a_redis_that_stays_silent_nothing_more_is_asked() {
    let server = RedisServer::start();
    let config = RedisStoreConfig {
        operation_timeout: Duration::from_secs(1),
        ..quick()
    };
    let store = store(&server, config);
    wait_for_health(&store, true).await;
    server.signal("STOP");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked = Instant::now();
        assert!(store.recent(0, 1).await.is_err());
        // Far less than an operation may take.
        if asked.elapsed() < Duration::from_millis(100) {
            break;
        }
        assert!(Instant::now() < deadline, "it is still asked");
    }
    server.signal("CONT");
    wait_for_health(&store, true).await;
    store.recent(0, 1).await.unwrap();
}

/// The name of a primary may lead to another server after a failover, while the connection stays
/// with the old one.
#[tokio::test]
async fn a_redis_that_is_a_replica_now_is_connected_to_anew() {
    let server = RedisServer::start();
    let store = store(&server, quick());
    store.connect(&session("u"), "s1").await.unwrap();
    let mut redis = server.inspect();
    let connections = |redis: &mut redis::Connection| -> u64 {
        let info: redis::InfoDict = redis::cmd("INFO").arg("stats").query(redis).unwrap();
        info.get("total_connections_received").unwrap()
    };
    let before = connections(&mut redis);
    let replica_of = |redis: &mut redis::Connection, primary: [&str; 2]| {
        let () = redis::cmd("REPLICAOF").arg(&primary).query(redis).unwrap();
    };
    replica_of(&mut redis, ["127.0.0.1", "1"]);
    let deadline = Instant::now() + PATIENCE;
    while connections(&mut redis) == before {
        assert!(Instant::now() < deadline, "it stays with the replica");
        let refused = store.append(message("m", "a", "b"), unannounced()).await;
        let why = refused.unwrap_err().to_string();
        assert!(why.contains("read only"), "{why}");
        assert_eq!(*store.health().borrow(), Health::Up, "it can be read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    replica_of(&mut redis, ["NO", "ONE"]);
    store
        .append(message("m", "a", "b"), unannounced())
        .await
        .unwrap();
}

#[tokio::test]
async fn an_end_that_could_not_be_stored_is_made_good() {
    let server = RedisServer::start();
    let config = RedisStoreConfig {
        operation_timeout: Duration::from_millis(300),
        ..quick()
    };
    let (store, other) = (store(&server, config), store(&server, quick()));
    let (goes, stays) = (session("goes"), session("stays"));
    store.connect(&goes, "s1").await.unwrap();
    store.connect(&stays, "s2").await.unwrap();
    store.tend().await.unwrap();
    other.tend().await.unwrap();
    server.signal("STOP");
    store.disconnect(&goes, "s1").await.unwrap_err();
    server.signal("CONT");
    wait_for_health(&store, true).await;
    let deadline = Instant::now() + PATIENCE;
    let mut told = Vec::new();
    while told.is_empty() {
        assert!(Instant::now() < deadline, "never made good");
        assert_eq!(connected(&store, "stays").await, Some(true));
        told.extend(store.tend().await.unwrap());
        told.extend(other.tend().await.unwrap());
    }
    assert_eq!(told, [gone("goes")]);
    assert_eq!(connected(&store, "goes").await, Some(false));
    assert_eq!(connected(&store, "stays").await, Some(true));
}
