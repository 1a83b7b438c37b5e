//! The register of nodes, on a real Redis.

#[allow(dead_code, reason = "each test binary uses its part")]
mod redis_server;

use std::collections::HashMap;

use chat_worker::nodes::{LEASE, NodeName, NodeRegister};
use chat_worker::parse_redis_url;
use redis::Commands;
use redis_server::RedisServer;
use serde_json::{Value, json};
use sticky_worker::NodeId;

fn register(server: &RedisServer, name: &str, instance: &str, port: u16) -> NodeRegister {
    let url = format!("redis+unix://{}", server.socket().display());
    let advertise = (port > 0).then(|| ([127, 0, 0, 1], port).into());
    let node = NodeName {
        name: name.to_owned(),
        instance: instance.to_owned(),
        advertise,
    };
    NodeRegister::new(parse_redis_url(&url).unwrap(), node, None)
}

fn connection(server: &RedisServer) -> redis::Connection {
    let url = format!("unix://{}", server.socket().display());
    let client = redis::Client::open(url).unwrap();
    client.get_connection().unwrap()
}

/// As if nobody had renewed this entry for that long.
fn age(server: &RedisServer, name: &str, by: u128) {
    let mut redis = connection(server);
    let text: String = redis.hget("cc:nodes", name).unwrap();
    let mut entry: Value = serde_json::from_str(&text).unwrap();
    let seen = entry["seen"].as_f64().unwrap() as i64 - by as i64;
    entry["seen"] = json!(seen);
    let _: () = redis.hset("cc:nodes", name, entry.to_string()).unwrap();
}

#[tokio::test]
async fn nodes_have_numbers_of_their_own_and_know_where_the_others_are() {
    let server = RedisServer::start();
    let mut a = register(&server, "a", "1", 7001);
    let mut b = register(&server, "b", "2", 7002);
    let mut silent = register(&server, "c", "3", 0);
    assert_eq!(a.hold().await.unwrap().id, NodeId(0));
    assert_eq!(b.hold().await.unwrap().id, NodeId(1));
    let third = silent.hold().await.unwrap();
    assert_eq!(third.id, NodeId(2));
    let at = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let both = HashMap::from([(NodeId(0), at(7001)), (NodeId(1), at(7002))]);
    assert_eq!(third.others, both);
    // Who cannot be called is not listed, nor is oneself.
    let first = a.hold().await.unwrap();
    assert_eq!(first.others, HashMap::from([(NodeId(1), at(7002))]));
    let ttl: i64 = connection(&server).ttl("cc:nodes").unwrap();
    assert!(ttl > 0, "{ttl}");
}

#[tokio::test]
async fn a_name_keeps_its_number_over_restarts_and_moves() {
    let server = RedisServer::start();
    let mut a = register(&server, "a", "1", 7001);
    let mut b = register(&server, "b", "2", 7002);
    a.hold().await.unwrap();
    let id = b.hold().await.unwrap().id;
    // Started again in the same place, without a farewell.
    let again = register(&server, "b", "2", 7002).hold().await.unwrap();
    assert_eq!(again.id, id);
    // In another place, after a farewell; the address is the new one.
    b.leave().await.unwrap();
    assert!(a.hold().await.unwrap().others.is_empty());
    let mut moved = register(&server, "b", "9", 7003);
    assert_eq!(moved.hold().await.unwrap().id, id);
    let others = a.hold().await.unwrap().others;
    assert_eq!(others[&id].port(), 7003);
}

#[tokio::test]
async fn two_that_live_under_one_name_have_two_numbers() {
    let server = RedisServer::start();
    let mut one = register(&server, "a", "1", 0);
    let mut other = register(&server, "a", "2", 0);
    assert_eq!(one.hold().await.unwrap().id, NodeId(0));
    assert_eq!(other.hold().await.unwrap().id, NodeId(1));
    // And keep them.
    assert_eq!(one.hold().await.unwrap().id, NodeId(0));
    assert_eq!(other.hold().await.unwrap().id, NodeId(1));
    let names: Vec<String> = connection(&server).hkeys("cc:nodes").unwrap();
    assert_eq!(names.len(), 2);
    // Under another name it is another node; the old name and its number are free.
    let renamed = register(&server, "z", "2", 0).hold().await.unwrap();
    assert_eq!(renamed.id, NodeId(1));
    let names: Vec<String> = connection(&server).hkeys("cc:nodes").unwrap();
    assert_eq!(names.len(), 2);
}

#[tokio::test]
async fn who_is_silent_is_dead_and_in_the_end_forgotten() {
    let server = RedisServer::start();
    let mut a = register(&server, "a", "1", 7001);
    let mut b = register(&server, "b", "2", 7002);
    a.hold().await.unwrap();
    let id = b.hold().await.unwrap().id;
    age(&server, "b", LEASE.as_millis() + 1);
    assert!(a.hold().await.unwrap().others.is_empty());
    // Its name is still its own.
    let back = register(&server, "b", "5", 7002).hold().await.unwrap();
    assert_eq!(back.id, id);
    age(&server, "b", 8 * 24 * 3600 * 1000);
    a.hold().await.unwrap();
    let names: Vec<String> = connection(&server).hkeys("cc:nodes").unwrap();
    assert_eq!(names, ["a"]);
    // The number is free again.
    let c = register(&server, "c", "6", 0).hold().await.unwrap();
    assert_eq!(c.id, id);
}

#[tokio::test]
async fn a_redis_that_lost_its_data_is_told_the_numbers() {
    let server = RedisServer::start();
    let url = format!("redis+unix://{}", server.socket().display());
    let known = |name: &str, id| {
        let node = NodeName {
            name: name.to_owned(),
            instance: name.to_owned(),
            advertise: None,
        };
        NodeRegister::new(parse_redis_url(&url).unwrap(), node, Some(NodeId(id)))
    };
    // In another order than at first.
    assert_eq!(known("b", 1).hold().await.unwrap().id, NodeId(1));
    assert_eq!(known("a", 0).hold().await.unwrap().id, NodeId(0));
    // Taken is taken.
    assert_eq!(known("c", 1).hold().await.unwrap().id, NodeId(2));
}

#[tokio::test]
async fn what_others_wrote_there_harms_nobody() {
    let server = RedisServer::start();
    let mut redis = connection(&server);
    for (name, entry) in [
        ("x", "not json"),
        ("y", "[]"),
        ("z", r#"{"id":"0","seen":true}"#),
    ] {
        let _: () = redis.hset("cc:nodes", name, entry).unwrap();
    }
    let place = register(&server, "a", "1", 7001).hold().await.unwrap();
    assert_eq!(place.id, NodeId(0));
    assert!(place.others.is_empty());
}

#[tokio::test]
async fn it_connects_again_by_itself() {
    let mut server = RedisServer::stopped();
    let mut a = register(&server, "a", "1", 7001);
    assert!(a.hold().await.is_err());
    server.launch();
    assert!(a.hold().await.is_ok());
    server.kill();
    assert!(a.hold().await.is_err());
    let _ = std::fs::remove_file(server.socket());
    server.launch();
    assert!(a.hold().await.is_ok());
}
