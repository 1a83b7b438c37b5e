//! A worker of the test's own: a chat served on a loopback port by a thread and runtime of its
//! own, so that killing it takes everything with it at once.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use chat_worker::{Backend, Chat, ChatConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::redis_server::RedisServer;

pub(crate) struct Worker {
    pub(crate) addr: SocketAddr,
    end: Option<oneshot::Sender<End>>,
    thread: Option<JoinHandle<bool>>,
}

enum End {
    Kill,
    Finish(Duration),
}

/// Settings under which a dead worker is noticed while a test waits.
pub(crate) fn config(server: &RedisServer) -> ChatConfig {
    let url = format!("redis+unix://{}", server.socket().display());
    let mut config = ChatConfig::new(Backend::Redis(url.parse().expect("a URL")));
    config.presence_lease = Duration::from_millis(1500);
    config.presence_interval = Duration::from_millis(200);
    config
}

impl Worker {
    pub(crate) fn start(server: &RedisServer) -> Self {
        Self::start_with(config(server))
    }

    pub(crate) fn start_with(config: ChatConfig) -> Self {
        let (end, ended) = oneshot::channel();
        let (ready, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let chat = Chat::start(config).expect("the chat starts");
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                ready
                    .send(listener.local_addr().expect("an address"))
                    .expect("read");
                let server = tokio::spawn(axum::serve(listener, chat.service()).into_future());
                match ended.await {
                    Ok(End::Finish(limit)) => {
                        let done = chat.finish(limit).await;
                        server.abort();
                        done
                    }
                    Ok(End::Kill) | Err(_) => false,
                }
            })
        });
        Self {
            addr: started.recv().expect("it starts"),
            end: Some(end),
            thread: Some(thread),
        }
    }

    /// Ends it as `kill -9` would: no task gets another turn.
    pub(crate) fn kill(self) {
        self.end(End::Kill);
    }

    /// Waits for what is under way; whether all was done in time.
    pub(crate) fn finish(self, limit: Duration) -> bool {
        self.end(End::Finish(limit))
    }

    fn end(mut self, end: End) -> bool {
        let _ = self.end.take().expect("ended once").send(end);
        let thread = self.thread.take().expect("ended once");
        thread.join().expect("the worker's thread")
    }

    /// One HTTP request on a connection of its own: status, head and body.
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &str,
    ) -> (u16, String, String) {
        self.request_with_body(method, path, headers, "").await
    }

    /// What a polling session answers: to a GET, or to a POST of `body`.
    pub(crate) async fn polling(&self, sid: &str, body: Option<&str>) -> String {
        let sid = match sid {
            "" => String::new(),
            sid => format!("&sid={sid}"),
        };
        let path = format!("/socket.io/?EIO=4&transport=polling{sid}");
        let body = body.unwrap_or_default();
        let (method, headers) = match body {
            "" => ("GET", String::new()),
            body => ("POST", format!("Content-Length: {}\r\n", body.len())),
        };
        let answer = self.request_with_body(method, &path, &headers, body).await;
        assert_eq!(answer.0, 200, "{}", answer.2);
        answer.2
    }

    async fn request_with_body(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.addr).await.expect("it listens");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n{body}",
            self.addr
        );
        stream.write_all(head.as_bytes()).await.expect("it reads");
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(30), read)
            .await
            .expect("in time")
            .expect("it answers");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        (
            status.expect("a status"),
            head.to_lowercase(),
            body.to_owned(),
        )
    }
}
