//! The private messages as clients see them, over workers that share a Redis.

#[allow(dead_code, reason = "each test binary uses its part")]
mod redis_server;
mod socket_io;
#[allow(dead_code, reason = "each test binary uses its part")]
mod worker;

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use serde_json::{Value, json};

use redis_server::RedisServer;
use socket_io::Client;
use worker::{Worker, config};

fn ids(messages: &Value) -> Vec<&str> {
    let messages = messages.as_array().expect("an array");
    messages.iter().filter_map(|m| m["id"].as_str()).collect()
}

#[tokio::test]
async fn a_login_is_told_who_it_is_and_who_else_is_there() {
    let server = RedisServer::start();
    let (one, two) = (Worker::start(&server), Worker::start(&server));
    let mut ada = Client::named(one.addr, "  ada ").await;
    for id in ["sessionID", "userID"] {
        let id = ada.session[id].as_str().unwrap();
        assert!(id.len() >= 22, "at least 128 bits: {id}");
    }
    assert_ne!(ada.session["sessionID"], ada.session["userID"]);
    let me =
        json!([{"userID": ada.user_id(), "username": "ada", "connected": true, "messages": []}]);
    assert_eq!(ada.users, me);

    let bob = Client::named(two.addr, "bob").await;
    let told = ada.event("user connected").await;
    let expected =
        json!({"userID": bob.user_id(), "username": "bob", "connected": true, "messages": []});
    assert_eq!(told, expected);
    assert_eq!(bob.users.as_array().unwrap().len(), 2);
    assert_eq!(bob.user(ada.user_id()).unwrap()["connected"], true);
    assert!(
        !bob.users
            .to_string()
            .contains(ada.session["sessionID"].as_str().unwrap())
    );
}

/// A socket used to hear what is told to everyone from the moment it was connected, which is
/// before its login gets its turn.
#[tokio::test]
async fn nothing_comes_before_the_session() {
    const TICK: &[u8] = b"\x93\xa6XFD3OF\x83\xa4type\x02\xa4data\x91\xa4tick\xa3nsp\xa1/\
        \x83\xa5rooms\x90\xa6except\x90\xa5flags\x80";
    let server = RedisServer::start();
    let worker = Worker::start(&server);
    let mut redis = server.inspect();
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let ticks = std::thread::spawn(move || {
        while ended.recv_timeout(Duration::from_micros(500)) == Err(RecvTimeoutError::Timeout) {
            let _: usize = redis::Commands::publish(&mut redis, "socket.io#/#", TICK).unwrap();
        }
    });
    for n in 0..150 {
        let mut client = Client::open(worker.addr).await;
        let auth = json!({"username": format!("user{n}")});
        client.send(format!("40{auth}")).await;
        let connected = client.packet().await.unwrap();
        assert!(connected.starts_with("40{"), "{connected}");
        let first = client.packet().await.unwrap();
        assert!(first.starts_with(r#"42["session","#), "{first}");
        let second = client.packet().await.unwrap();
        assert!(second.starts_with(r#"42["users","#), "{second}");
        // And they do come.
        client.event("tick").await;
    }
    drop(done);
    ticks.join().unwrap();
}

#[tokio::test]
async fn who_says_no_name_and_knows_no_session_is_refused() {
    let server = RedisServer::start();
    let worker = Worker::start(&server);
    for auth in [
        json!({}),
        json!({"username": ""}),
        json!({"username": "   "}),
        json!({"username": "x".repeat(65)}),
        json!({"username": 5}),
        json!({"sessionID": "unknown"}),
        json!({"sessionID": "unknown", "username": " "}),
        json!({"sessionID": "no id at all\r\n", "username": null}),
        json!({"sessionID": {"a": 1}}),
    ] {
        let message = Client::refused(worker.addr, auth.clone()).await;
        assert_eq!(message, "invalid username", "{auth}");
    }
    let auth = json!({"sessionID": "unknown", "username": "ada"});
    let ada = Client::login(worker.addr, auth).await;
    assert_ne!(ada.session["sessionID"], "unknown");
}

#[tokio::test]
async fn a_message_reaches_every_socket_of_both_users_once() {
    let server = RedisServer::start();
    let (one, two) = (Worker::start(&server), Worker::start(&server));
    let mut ada = Client::named(one.addr, "ada").await;
    let mut ada_here = ada.again(one.addr).await;
    let mut ada_there = ada.again(two.addr).await;
    let mut bob_here = Client::named(one.addr, "bob").await;
    let mut bob_there = bob_here.again(two.addr).await;
    let mut eve = Client::named(two.addr, "eve").await;
    let to = bob_here.user_id().to_owned();

    let ack = ada.message(&to, "m-1", "grüße 🦀").await;
    let at = ack["at"].as_u64().unwrap();
    assert_eq!(ack, json!({"ok": true, "id": "m-1", "at": at}));
    let message =
        json!({"id": "m-1", "content": "grüße 🦀", "from": ada.user_id(), "to": to, "at": at});
    for socket in [&mut ada_here, &mut ada_there, &mut bob_here, &mut bob_there] {
        assert_eq!(socket.event("private message").await, message);
    }
    let again = ada.message(&to, "m-1", "grüße 🦀").await;
    assert_eq!(again, ack);
    ada.message(&to, "m-2", "next").await;
    for socket in [&mut ada_here, &mut ada_there, &mut bob_here, &mut bob_there] {
        assert_eq!(socket.event("private message").await["id"], "m-2");
    }
    assert!(
        ada.events_so_far("private message").await.is_empty(),
        "not to the sending socket"
    );
    assert!(eve.events_so_far("private message").await.is_empty());
}

#[tokio::test]
async fn a_message_without_id_and_ack_is_a_message() {
    let server = RedisServer::start();
    let worker = Worker::start(&server);
    let mut ada = Client::named(worker.addr, "ada").await;
    let mut bob = Client::named(worker.addr, "bob").await;
    let to = bob.user_id();
    ada.emit("private message", json!({"content": "hi", "to": to}))
        .await;
    let message = bob.event("private message").await;
    assert_eq!(message["content"], "hi");
    assert!(message["id"].as_str().unwrap().len() >= 22);
    // To oneself: once to the other sockets, never back to this one.
    let mut tab = ada.again(worker.addr).await;
    let me = ada.user_id().to_owned();
    ada.emit("private message", json!({"content": "note", "to": me}))
        .await;
    assert_eq!(tab.event("private message").await["content"], "note");
    assert!(tab.events_so_far("private message").await.is_empty());
    assert!(ada.events_so_far("private message").await.is_empty());
}

#[tokio::test]
async fn what_is_no_message_is_refused_with_its_code() {
    let server = RedisServer::start();
    let worker = Worker::start(&server);
    let mut ada = Client::named(worker.addr, "ada").await;
    let mut bob = Client::named(worker.addr, "bob").await;
    let to = bob.user_id().to_owned();
    let table = [
        (
            json!({"content": "x".repeat(65_537), "to": to}),
            "too_large",
        ),
        (json!({"content": 5, "to": to}), "invalid"),
        (json!({"content": "hi", "to": "no such#room"}), "invalid"),
        (json!({"content": "hi", "to": to, "id": "a b"}), "invalid"),
        (json!("hi"), "invalid"),
        (json!(null), "invalid"),
    ];
    for (payload, code) in table {
        let ack = ada.call("private message", payload).await;
        assert_eq!(
            (&ack["ok"], &ack["error"]["code"]),
            (&json!(false), &json!(code))
        );
        assert!(ack["error"]["message"].is_string());
    }
    // No argument at all, too many, an unknown event, and no ack for any of it.
    for packet in [
        r#"42["private message"]"#,
        r#"42["messages"]"#,
        r#"42["no such event",1]"#,
        r#"42["private message",{"to":5},"more"]"#,
    ] {
        ada.send(packet.into()).await;
    }
    let largest = "x".repeat(65_536);
    assert_eq!(ada.message(&to, "largest", &largest).await["ok"], true);
    assert_eq!(bob.event("private message").await["id"], "largest");
}

#[tokio::test]
async fn one_senders_messages_keep_their_order() {
    let server = RedisServer::start();
    let (one, two) = (Worker::start(&server), Worker::start(&server));
    let mut ada = Client::named(one.addr, "ada").await;
    let mut bob = Client::named(two.addr, "bob").await;
    let to = bob.user_id().to_owned();
    let mut asked = Vec::new();
    for n in 0..300 {
        let data = json!({"to": to, "id": format!("m{n}"), "content": n.to_string()});
        asked.push(ada.ask("private message", data).await);
    }
    for expected in asked {
        let (id, ack) = ada.ack().await;
        assert_eq!((id, &ack["ok"]), (expected, &json!(true)));
    }
    for n in 0..300 {
        assert_eq!(bob.event("private message").await["id"], format!("m{n}"));
    }
}

#[tokio::test]
async fn a_refresh_has_the_same_user_and_the_history() {
    let server = RedisServer::start();
    let (one, two) = (Worker::start(&server), Worker::start(&server));
    let mut ada = Client::named(one.addr, "ada").await;
    let mut bob = Client::named(two.addr, "bob").await;
    let (a, b) = (ada.user_id().to_owned(), bob.user_id().to_owned());
    ada.message(&b, "1", "one").await;
    bob.message(&a, "2", "two").await;
    ada.message(&a, "3", "note").await;
    let back = ada.again(two.addr).await;
    assert_eq!(back.session, ada.session);
    assert_eq!(ids(&back.user(&b).unwrap()["messages"]), ["1", "2"]);
    assert_eq!(ids(&back.user(&a).unwrap()["messages"]), ["3"]);

    let page = ada.call("messages", json!({"with": b})).await;
    assert_eq!(ids(&page), ["1", "2"]);
    let page = ada.call("messages", json!({"with": b, "limit": 1})).await;
    assert_eq!(ids(&page), ["2"]);
    let page = ada
        .call("messages", json!({"with": b, "before": "2"}))
        .await;
    assert_eq!(ids(&page), ["1"]);
    let refused = ada.call("messages", json!({"with": "a b"})).await;
    assert_eq!(refused["error"]["code"], "invalid");
}

#[tokio::test]
async fn a_user_is_gone_with_the_last_socket_only() {
    let server = RedisServer::start();
    let (one, two) = (Worker::start(&server), Worker::start(&server));
    let mut eve = Client::named(one.addr, "eve").await;
    let ada = Client::named(one.addr, "ada").await;
    let id = ada.user_id().to_owned();
    assert_eq!(eve.event("user connected").await["userID"], id);
    // That she is here is no news any more.
    let tab = ada.again(two.addr).await;
    ada.close().await;
    // A third comes and goes, so that there is something to wait for.
    let bob = Client::named(two.addr, "bob").await;
    let bob_id = bob.user_id().to_owned();
    assert_eq!(eve.event("user connected").await["userID"], bob_id);
    bob.close().await;
    assert_eq!(eve.event("user disconnected").await, bob_id);
    let seen = Client::named(two.addr, "x").await;
    assert_eq!(seen.user(&id).unwrap()["connected"], true);
    tab.close().await;
    assert_eq!(eve.event("user disconnected").await, id);
    let seen = Client::named(two.addr, "y").await;
    assert_eq!(seen.user(&id).unwrap()["connected"], false);
}

#[tokio::test]
async fn users_of_a_killed_worker_are_gone_unless_they_came_back() {
    let server = RedisServer::start();
    let (one, two, doomed) = (
        Worker::start(&server),
        Worker::start(&server),
        Worker::start(&server),
    );
    let mut eve = Client::named(one.addr, "eve").await;
    let goes = Client::named(doomed.addr, "goes").await;
    let stays = Client::named(doomed.addr, "stays").await;
    doomed.kill();
    let back = stays.again(two.addr).await;
    assert_eq!(back.user_id(), stays.user_id());
    assert_eq!(eve.event("user disconnected").await, goes.user_id());
    let seen = Client::named(two.addr, "x").await;
    assert_eq!(seen.user(goes.user_id()).unwrap()["connected"], false);
    assert_eq!(seen.user(stays.user_id()).unwrap()["connected"], true);
    assert!(
        eve.events_so_far("user disconnected").await.is_empty(),
        "told once"
    );
}

#[tokio::test]
async fn nothing_falls_between_the_snapshot_and_what_follows() {
    let server = RedisServer::start();
    let mut config = worker::config(&server);
    config.history_limit = 1000;
    let (one, two) = (
        Worker::start_with(config.clone()),
        Worker::start_with(config),
    );
    let mut ada = Client::named(one.addr, "ada").await;
    let bob = Client::named(two.addr, "bob").await;
    let (from, to) = (ada.user_id().to_owned(), bob.user_id().to_owned());
    let sender = tokio::spawn(async move {
        for n in 0..600 {
            let ack = ada.message(&to, &format!("m{n}"), "hi").await;
            assert_eq!(ack["ok"], true);
        }
        ada
    });
    let mut tabs = Vec::new();
    for n in 0..12 {
        let worker = if n % 2 == 0 { &two } else { &one };
        tabs.push(bob.again(worker.addr).await);
    }
    let _ada = sender.await.unwrap();
    let expected: Vec<String> = (0..600).map(|n| format!("m{n}")).collect();
    for mut tab in tabs {
        let snapshot = tab.user(&from).unwrap()["messages"].clone();
        let mut got: Vec<String> = ids(&snapshot).into_iter().map(Into::into).collect();
        while got.last() != expected.last() {
            match tab.next_event().await {
                (event, message) if event == "private message" => {
                    got.push(message["id"].as_str().unwrap().into());
                }
                // More came during the login than could wait, so all is told anew.
                (event, users) if event == "users" => {
                    tab.users = users;
                    let snapshot = &tab.user(&from).unwrap()["messages"];
                    got = ids(snapshot).into_iter().map(Into::into).collect();
                }
                _ => {}
            }
        }
        assert_eq!(got, expected);
        assert!(tab.events_so_far("private message").await.is_empty());
    }
}

#[tokio::test]
async fn what_is_sent_before_the_login_is_done_is_not_lost() {
    let server = RedisServer::start();
    let worker = Worker::start(&server);
    let mut bob = Client::named(worker.addr, "bob").await;
    for n in 0..20 {
        let mut ada = Client::open(worker.addr).await;
        ada.send(format!("40{}", json!({"username": "ada"}))).await;
        let connected = ada.packet().await.unwrap();
        assert!(connected.starts_with("40{"), "{connected}");
        let data = json!({"content": n.to_string(), "to": bob.user_id()});
        ada.emit("private message", data).await;
        ada.close().await;
        assert_eq!(bob.event("private message").await["content"], n.to_string());
    }
}

#[tokio::test]
async fn without_a_store_a_message_is_refused_and_nothing_is_lost_for_good() {
    let mut server = RedisServer::start();
    let mut settings = config(&server);
    settings.store_timeout = Duration::from_millis(300);
    let worker = Worker::start_with(settings);
    let mut ada = Client::named(worker.addr, "ada").await;
    let me = ada.user_id().to_owned();
    assert_eq!(worker.request("GET", "/healthz", "").await.2, "ok");
    server.kill();
    let ack = ada.message(&me, "m1", "hi").await;
    assert_eq!(ack["error"]["code"], "unavailable");
    wait_for_health(&worker, 503).await;
    server.launch();
    wait_for_health(&worker, 200).await;
    let ack = ada.message(&me, "m1", "hi").await;
    assert_eq!(ack["ok"], true);
    // That Redis forgot everything: the session of the socket that lives is put back.
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while server.inspect_session(&ada).is_none() {
        assert!(
            std::time::Instant::now() < deadline,
            "the session is not put back"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Each waiting message used to wait out the store's bound for itself, one after the other.
#[tokio::test]
async fn while_the_store_is_frozen_a_whole_queue_is_refused_in_time() {
    let server = RedisServer::start();
    let mut settings = config(&server);
    settings.store_timeout = Duration::from_millis(500);
    let worker = Worker::start_with(settings);
    let mut ada = Client::named(worker.addr, "ada").await;
    let me = ada.user_id().to_owned();
    signal(&server, "STOP");
    let began = std::time::Instant::now();
    for n in 0..100 {
        let data = json!({"to": me, "id": format!("m{n}"), "content": "hi"});
        ada.ask("private message", data).await;
    }
    for _ in 0..100 {
        let (_, ack) = ada.ack().await;
        assert_eq!(ack["error"]["code"], "unavailable");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    signal(&server, "CONT");
    wait_for_health(&worker, 200).await;
    assert_eq!(ada.message(&me, "m99", "hi").await["ok"], true);
}

/// Pub/sub forgets: while a worker's subscription is away, what is published reaches nobody there.
#[tokio::test]
async fn what_was_published_while_the_subscription_was_away_is_heard_once() {
    let server = RedisServer::start();
    let (one, two) = (Worker::start(&server), Worker::start(&server));
    let mut ada = Client::named(one.addr, "ada").await;
    let mut bob = Client::named(two.addr, "bob").await;
    let to = bob.user_id().to_owned();
    let mut redis = server.inspect();
    for n in 0..200 {
        if n % 50 == 25 {
            let killed: u64 = redis::cmd("CLIENT")
                .arg(&["KILL", "TYPE", "pubsub"])
                .query(&mut redis)
                .unwrap();
            assert_eq!(killed, 2, "each worker has a subscriber");
        }
        let ack = ada.message(&to, &format!("m{n}"), "hi").await;
        assert_eq!(ack["ok"], true);
        if n % 50 == 49 {
            wait_for_health(&one, 200).await;
            wait_for_health(&two, 200).await;
        }
    }
    let mut heard = std::collections::HashSet::new();
    while heard.len() < 200 {
        let message = bob.event("private message").await;
        assert!(heard.insert(message["id"].to_string()), "twice: {message}");
    }
    assert!(bob.events_so_far("private message").await.is_empty());
    let own = ada.events_so_far("private message").await;
    assert!(own.is_empty(), "a sender heard its own message: {own:?}");
}

/// A polling client gets nothing while it has no request open. The acknowledgements that came
/// meanwhile and did not fit its queue used to be lost, with the client none the wiser.
#[tokio::test]
async fn a_burst_over_polling_has_all_its_acks() {
    let server = RedisServer::start();
    let worker = Worker::start(&server);
    let open = worker.polling("", None).await;
    let sid = open.split('"').nth(3).expect("a sid").to_owned();
    worker.polling(&sid, Some(r#"40{"username":"ada"}"#)).await;
    let mut heard = String::new();
    while !heard.contains(r#"42["users","#) {
        heard += &worker.polling(&sid, None).await;
    }
    let messages: Vec<String> = (0..2000)
        .map(|n| format!(r#"42{n}["private message",{{"content":"","to":"bob","id":"m{n}"}}]"#))
        .collect();
    worker.polling(&sid, Some(&messages.join("\u{1e}"))).await;
    // Until the worker does no more for a client that asks for nothing.
    let mut stored = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now: usize = redis::Commands::llen(&mut server.inspect(), "messages:bob").unwrap();
        if now > 1000 && now == stored {
            break;
        }
        stored = now;
    }
    let mut acks = 0;
    while acks < messages.len() {
        for packet in worker.polling(&sid, None).await.split('\u{1e}') {
            if packet != "2" {
                let expected = format!(r#"43{acks}[{{"ok":true,"id":"m{acks}","#);
                assert!(packet.starts_with(&expected), "{packet} for {expected}");
                acks += 1;
            }
        }
    }
}

impl RedisServer {
    fn inspect_session(&self, client: &Client) -> Option<String> {
        let id = client.session["sessionID"].as_str().expect("an id");
        redis::Commands::hget(&mut self.inspect(), format!("session:{id}"), "userID").ok()
    }
}

async fn wait_for_health(worker: &Worker, status: u16) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while worker.request("GET", "/healthz", "").await.0 != status {
        assert!(std::time::Instant::now() < deadline, "never {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_flood_is_refused_event_by_event() {
    let server = RedisServer::start();
    let worker = Worker::start(&server);
    let mut ada = Client::named(worker.addr, "ada").await;
    let to = ada.user_id().to_owned();
    // Nothing gets done while Redis is frozen, so everything waits.
    signal(&server, "STOP");
    let flood = 4200;
    for n in 0..flood {
        let data = json!({"to": to, "id": format!("m{n}"), "content": ""});
        ada.ask("private message", data).await;
    }
    let (_, ack) = ada.ack().await;
    assert_eq!(ack["error"]["code"], "rate_limited");
    signal(&server, "CONT");
    let (mut stored, mut refused) = (0, 1);
    for _ in 1..flood {
        let (_, ack) = ada.ack().await;
        match ack["ok"].as_bool() {
            Some(true) => stored += 1,
            _ => refused += 1,
        }
    }
    assert!(stored >= 4000, "{stored} stored, {refused} refused");
}

fn signal(server: &RedisServer, signal: &str) {
    let done = std::process::Command::new("kill")
        .arg(format!("-{signal}"))
        .arg(server.pid().to_string())
        .status()
        .expect("kill");
    assert!(done.success());
}

#[tokio::test]
async fn finishing_waits_for_the_ends_of_all_sockets() {
    let server = RedisServer::start();
    let (leaving, other) = (Worker::start(&server), Worker::start(&server));
    let mut eve = Client::named(other.addr, "eve").await;
    let mut clients = Vec::new();
    for n in 0..20 {
        clients.push(Client::named(leaving.addr, &format!("user{n}")).await);
    }
    for client in clients {
        client.close().await;
    }
    assert!(leaving.finish(Duration::from_secs(30)));
    let seen = Client::named(other.addr, "x").await;
    let users = seen.users.as_array().unwrap();
    let connected = users.iter().filter(|u| u["connected"] == true).count();
    assert_eq!(connected, 2, "eve and x");
    for _ in 0..20 {
        eve.event("user disconnected").await;
    }
}

#[tokio::test]
async fn finishing_ends_at_its_limit() {
    let server = RedisServer::start();
    let worker = Worker::start(&server);
    let _stays = Client::named(worker.addr, "stays").await;
    assert!(!worker.finish(Duration::from_millis(200)));
}
