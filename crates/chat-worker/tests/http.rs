//! The HTTP routes, and which pages may use them.

#[allow(dead_code, reason = "each test binary uses its part")]
mod redis_server;
#[allow(dead_code, reason = "each test binary uses its part")]
mod worker;

use redis_server::RedisServer;
use worker::{Worker, config};

const HANDSHAKE: &str = "/socket.io/?EIO=4&transport=polling";
const UPGRADE: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn a_worker_without_redis_is_not_healthy() {
    let server = RedisServer::stopped();
    let worker = Worker::start(&server);
    let (status, _, body) = worker.request("GET", "/healthz", "").await;
    assert_eq!((status, body.as_str()), (503, "the store is away\n"));
}

#[tokio::test]
async fn the_client_is_served_or_said_how_to_get() {
    let server = RedisServer::stopped();
    let worker = Worker::start(&server);
    for name in ["socket.io.js", "socket.io.min.js", "socket.io.esm.min.js"] {
        let path = format!("/socket.io/{name}");
        let (status, head, body) = worker.request("GET", &path, "").await;
        match status {
            200 => {
                assert!(
                    head.contains("content-type: application/javascript"),
                    "{head}"
                );
                assert!(head.contains("etag: \""), "{head}");
                assert!(body.contains("socket.io"), "{}", &body[..100]);
                let tag = head.split("etag: ").nth(1).unwrap().lines().next().unwrap();
                let known = format!("If-None-Match: {tag}\r\n");
                assert_eq!(worker.request("GET", &path, &known).await.0, 304);
            }
            404 => assert!(body.contains("make web"), "{body}"),
            other => panic!("{other}: {head}"),
        }
    }
    assert_eq!(worker.request("GET", "/", "").await.0, 200);
    assert_eq!(worker.request("GET", "/nothing", "").await.0, 404);
}

#[tokio::test]
async fn a_handshake_of_a_foreign_page_is_refused() {
    let server = RedisServer::stopped();
    let mut settings = config(&server);
    settings.cors_origins = vec!["https://chat.example".into()];
    let worker = Worker::start_with(settings);
    let websocket = "/socket.io/?EIO=4&transport=websocket";
    let upgrade = UPGRADE.to_owned() + "Connection: upgrade\r\n";
    for (path, more) in [(HANDSHAKE, ""), (websocket, upgrade.as_str())] {
        for origin in [
            "http://evil.example",
            "null",
            "https://chat.example.evil.example",
        ] {
            let headers = format!("Origin: {origin}\r\n{more}");
            let (status, head, body) = worker.request("GET", path, &headers).await;
            assert_eq!(status, 403, "{origin} {path}");
            assert_eq!(body, r#"{"code":4,"message":"Forbidden"}"#);
            assert!(head.contains("content-type: application/json"));
            assert!(!head.contains("access-control"), "{head}");
        }
    }
    for origin in [
        format!("http://{}", worker.addr),
        "https://chat.example".into(),
    ] {
        let headers = format!("Origin: {origin}\r\n");
        let (status, head, body) = worker.request("GET", HANDSHAKE, &headers).await;
        assert_eq!(status, 200, "{origin}");
        assert!(body.starts_with("0{"), "{body}");
        let named = head.contains(&format!("access-control-allow-origin: {origin}"));
        assert_eq!(named, origin.starts_with("https"), "{head}");
    }
    assert_eq!(
        worker.request("GET", HANDSHAKE, "").await.0,
        200,
        "no browser"
    );
}

#[tokio::test]
async fn a_preflight_of_an_allowed_page_is_answered() {
    let server = RedisServer::stopped();
    let mut settings = config(&server);
    settings.cors_origins = vec!["https://chat.example".into()];
    let worker = Worker::start_with(settings.clone());
    let ask = |origin: &str| {
        format!(
            "Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-a\r\n"
        )
    };
    let (status, head, _) = worker
        .request("OPTIONS", HANDSHAKE, &ask("https://chat.example"))
        .await;
    assert_eq!(status, 204);
    for line in [
        "access-control-allow-origin: https://chat.example",
        "access-control-allow-credentials: true",
        "access-control-allow-methods: get,head,post",
        "access-control-allow-headers: x-a",
        "vary: ",
    ] {
        assert!(head.contains(line), "{line} in {head}");
    }
    let (_, head, _) = worker
        .request("OPTIONS", HANDSHAKE, &ask("http://evil.example"))
        .await;
    assert!(!head.contains("access-control"), "{head}");

    settings.cors_origins = vec!["*".into()];
    let open = Worker::start_with(settings);
    let (status, head, _) = open
        .request("GET", HANDSHAKE, "Origin: http://any.example\r\n")
        .await;
    assert_eq!(status, 200);
    assert!(head.contains("access-control-allow-origin: *"), "{head}");
    assert!(!head.contains("credentials"), "{head}");
}

#[tokio::test]
async fn a_setting_that_is_no_origin_is_refused_at_the_start() {
    let server = RedisServer::stopped();
    let mut settings = config(&server);
    settings.cors_origins = vec!["chat.example/path".into()];
    let error = chat_worker::Chat::start(settings).err().expect("refused");
    assert!(error.to_string().contains("chat.example/path"), "{error}");
}
