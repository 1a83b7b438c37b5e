//! A redis-server of the test's own: on a Unix socket in a temporary directory, gone with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chat_worker::RedisUrl;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

pub(crate) struct RedisServer {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        let mut server = Self::stopped();
        server.launch();
        server
    }

    /// With more settings.
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        let mut server = Self::stopped();
        server.launch_with(settings);
        server
    }

    /// Only the place where one may come to be.
    pub(crate) fn stopped() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { dir, child: None }
    }

    pub(crate) fn launch(&mut self) {
        self.launch_with(&[]);
    }

    fn launch_with(&mut self, settings: &[&str]) {
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--dir")
            .arg(self.dir.path())
            .args(settings)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < deadline, "redis-server did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// Sends the process a signal by its name, as `STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let done = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(self.pid().to_string())
            .status();
        assert!(done.expect("kill runs").success());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub(crate) fn info(&self) -> ConnectionInfo {
        info(&self.socket())
    }

    pub(crate) fn url(&self) -> RedisUrl {
        let url = format!("redis+unix://{}", self.socket().display());
        url.parse().expect("an address")
    }

    /// A plain connection, to look at what the store wrote.
    pub(crate) fn inspect(&self) -> redis::Connection {
        redis::Client::open(self.info())
            .and_then(|client| client.get_connection())
            .expect("a connection")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn info(socket: &Path) -> ConnectionInfo {
    ConnectionAddr::Unix(socket.to_owned())
        .into_connection_info()
        .expect("a path is an address")
}
