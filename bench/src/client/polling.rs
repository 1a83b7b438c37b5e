//! Sessions over HTTP long-polling.

use std::rc::Rc;

use anyhow::{Context as _, bail};

use super::http::Connection;
use super::packet::{self, Packet};
use super::target::Target;

const HANDSHAKE: &str = "/socket.io/?EIO=4&transport=polling";

/// Opens a session: its id.
pub(crate) async fn handshake(connection: &mut Connection) -> anyhow::Result<String> {
    let body = connection.get(HANDSHAKE).await?.ok()?;
    match packet::split(&body).next() {
        Some(Packet::Open(open)) => packet::sid(open),
        _ => bail!("not an open packet: {body:.100}"),
    }
}

/// The path of a session's requests.
pub(crate) fn session_path(sid: &str) -> String {
    format!("{HANDSHAKE}&sid={sid}")
}

/// Sends packets of a session.
pub(crate) async fn post(
    connection: &mut Connection,
    path: &str,
    packets: &str,
) -> anyhow::Result<()> {
    let answer = connection.post(path, packets).await?.ok()?;
    if answer != "ok" {
        bail!("a POST was answered with {answer:.100}");
    }
    Ok(())
}

/// Shows the packets of a polling answer, and tells whether a ping among them waits for its
/// answer. An error when the session has ended.
pub(crate) fn see_all(body: &str, mut see: impl FnMut(&Packet<'_>)) -> anyhow::Result<bool> {
    let mut pinged = false;
    for packet in packet::split(body) {
        match packet {
            Packet::Ping => pinged = true,
            Packet::Close => bail!("the server closed the session"),
            Packet::Refused(why) => bail!("refused: {why}"),
            _ => see(&packet),
        }
    }
    Ok(pinged)
}

/// A session over two connections, as browsers use: one polls, the other posts.
#[derive(Debug)]
pub(crate) struct PollingSession {
    polls: Connection,
    posts: Connection,
    path: String,
    pub(crate) sid: String,
}

impl PollingSession {
    pub(crate) async fn open(target: &Rc<Target>) -> anyhow::Result<PollingSession> {
        let mut polls = Connection::new(target);
        let sid = handshake(&mut polls).await.context("handshake")?;
        Ok(PollingSession {
            polls,
            posts: Connection::new(target),
            path: session_path(&sid),
            sid,
        })
    }

    pub(crate) async fn send(&mut self, packets: &str) -> anyhow::Result<()> {
        post(&mut self.posts, &self.path, packets)
            .await
            .context("POST")
    }

    /// Polls once. A ping in the answer is for the caller to answer.
    pub(crate) async fn poll(&mut self) -> anyhow::Result<String> {
        self.polls.get(&self.path).await?.ok().context("poll")
    }

    /// Polls, and answers pings, until `seen` says that it has what it waits for.
    pub(crate) async fn until(
        &mut self,
        mut seen: impl FnMut(&Packet<'_>) -> bool,
    ) -> anyhow::Result<()> {
        let mut found = false;
        while !found {
            let body = self.poll().await?;
            if see_all(&body, |packet| found |= seen(packet))? {
                self.send("3").await?;
            }
        }
        Ok(())
    }
}
