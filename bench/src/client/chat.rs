//! The private-messaging chat: log-in, and the events that its clients see.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::packet::{self, Packet};
use super::polling::PollingSession;
use super::target::Target;
use super::websocket::WebSocket;

/// How a client's session begins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transport {
    /// With a WebSocket.
    Websocket,
    /// With polling, and the upgrade to a WebSocket: what the official client does.
    Upgrade,
}

/// Who logs in.
#[derive(Clone, Debug)]
pub(crate) enum Auth {
    /// A new user of this name.
    Username(String),
    /// The user of an earlier session.
    Session(String),
}

impl Auth {
    /// The packet that connects to the namespace.
    pub(crate) fn packet(&self) -> String {
        let auth = match self {
            Auth::Username(name) => serde_json::json!({ "username": name }),
            Auth::Session(id) => serde_json::json!({ "sessionID": id }),
        };
        format!("40{auth}")
    }
}

/// The payload of `session`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Session {
    #[serde(rename = "sessionID")]
    pub(crate) session_id: String,
    #[serde(rename = "userID")]
    pub(crate) user_id: String,
}

/// A user in `users` and `user connected`.
#[derive(Debug, Deserialize)]
pub(crate) struct Person<'a> {
    #[serde(rename = "userID", borrow)]
    pub(crate) user_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) username: Cow<'a, str>,
    pub(crate) connected: bool,
}

/// The payload of `private message`.
#[derive(Debug, Deserialize)]
pub(crate) struct PrivateMessage<'a> {
    #[serde(borrow)]
    pub(crate) id: Cow<'a, str>,
}

/// What a server's event says.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    Session(Session),
    /// The list, unread: it is long, and few want it.
    Users(&'a str),
    UserConnected(Person<'a>),
    UserDisconnected(Cow<'a, str>),
    PrivateMessage(PrivateMessage<'a>),
    Other,
}

impl<'a> Event<'a> {
    /// Reads `["name", payload]`.
    pub(crate) fn read(json: &'a str) -> anyhow::Result<Event<'a>> {
        let parts = json
            .strip_prefix("[\"")
            .and_then(|rest| rest.split_once('"'));
        let Some((name, rest)) = parts else {
            bail!("not an event: {json:.100}");
        };
        let payload = rest
            .strip_prefix(',')
            .and_then(|rest| rest.strip_suffix(']'));
        let payload = payload.unwrap_or("null");
        let event = match name {
            "session" => Event::Session(serde_json::from_str(payload)?),
            "users" => Event::Users(payload),
            "user connected" => Event::UserConnected(serde_json::from_str(payload)?),
            "user disconnected" => {
                Event::UserDisconnected(serde_json::from_str(payload).map(|Text(id)| id)?)
            }
            "private message" => Event::PrivateMessage(serde_json::from_str(payload)?),
            _ => Event::Other,
        };
        Ok(event)
    }
}

/// What an ack says of a message.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer<'a> {
    Stored,
    /// With the error's code.
    Refused(Cow<'a, str>),
}

impl<'a> Answer<'a> {
    /// Reads `[{"ok":true,…}]` or `[{"ok":false,"error":{"code":…}}]`.
    pub(crate) fn read(json: &'a str) -> anyhow::Result<Answer<'a>> {
        #[derive(Deserialize)]
        struct Ack<'a> {
            ok: bool,
            #[serde(borrow)]
            error: Option<Error<'a>>,
        }
        #[derive(Deserialize)]
        struct Error<'a> {
            #[serde(borrow)]
            code: Cow<'a, str>,
        }
        let [ack]: [Ack<'a>; 1] =
            serde_json::from_str(json).with_context(|| format!("not an answer: {json:.100}"))?;
        Ok(match (ack.ok, ack.error) {
            (true, _) => Answer::Stored,
            (false, Some(error)) => Answer::Refused(error.code),
            (false, None) => Answer::Refused("no code".into()),
        })
    }
}

/// A string that is borrowed where it can be.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A logged-in user.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) socket: WebSocket,
    pub(crate) session: Session,
    /// Tries of the log-in that failed.
    pub(crate) repeated: u32,
}

/// How long a log-in may take before it is tried again; the official client has 20 s.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tries of a log-in.
const TRIES: u32 = 3;

/// Logs in, until the list of users has arrived. `on_event` sees every event up to there. As the
/// official client does, it tries again when that fails or hangs.
pub(crate) async fn log_in(
    target: &Rc<Target>,
    auth: &Auth,
    transport: Transport,
    mut on_event: impl FnMut(&Event<'_>),
) -> anyhow::Result<User> {
    let mut tries = 1;
    loop {
        let log_in = try_log_in(target, auth, transport, &mut on_event);
        match tokio::time::timeout(PATIENCE, log_in).await {
            Ok(Ok((socket, session))) => {
                return Ok(User {
                    socket,
                    session,
                    repeated: tries - 1,
                });
            }
            Ok(Err(error)) if tries == TRIES => return Err(error),
            Err(_) if tries == TRIES => bail!("no answer to a log-in within {PATIENCE:?}"),
            Ok(Err(_)) | Err(_) => tries += 1,
        }
    }
}

async fn try_log_in(
    target: &Rc<Target>,
    auth: &Auth,
    transport: Transport,
    on_event: &mut impl FnMut(&Event<'_>),
) -> anyhow::Result<(WebSocket, Session)> {
    let mut login = LogIn::default();
    let socket = match transport {
        Transport::Websocket => {
            let mut socket = WebSocket::open(target, None).await?;
            let open = socket.next().await?;
            if !matches!(packet::read(&open), Packet::Open(_)) {
                bail!("not an open packet: {open:.100}");
            }
            socket.send(auth.packet()).await?;
            while !login.done {
                login.see(&packet::read(&socket.next().await?), on_event)?;
            }
            socket
        }
        Transport::Upgrade => upgrade(target, auth, &mut login, on_event).await?,
    };
    Ok((socket, login.session))
}

/// As the official client does it: the log-in is posted, and while a poll waits
/// for what comes of it, a WebSocket is probed. When that has answered and the
/// poll has ended, the session moves.
async fn upgrade(
    target: &Rc<Target>,
    auth: &Auth,
    login: &mut LogIn,
    on_event: &mut impl FnMut(&Event<'_>),
) -> anyhow::Result<WebSocket> {
    let mut session = PollingSession::open(target).await?;
    session.send(&auth.packet()).await?;
    let sid = session.sid.clone();
    let probe = async {
        let mut socket = WebSocket::open(target, Some(&sid)).await?;
        socket.send("2probe".to_owned()).await?;
        let text = socket.next().await?;
        match packet::read(&text) {
            Packet::ProbePong => Ok(socket),
            _ => bail!("the probe was answered with {text:.100}"),
        }
    };
    // A server answers the waiting poll when the probe arrives.
    let (socket, body) = tokio::join!(probe, session.poll());
    let (mut socket, body) = (socket?, body?);
    let mut pinged = false;
    for packet in packet::split(&body) {
        pinged |= packet == Packet::Ping;
        login.see(&packet, on_event)?;
    }
    socket.send("5".to_owned()).await?;
    if pinged {
        socket.send("3".to_owned()).await?;
    }
    while !login.done {
        login.see(&packet::read(&socket.next().await?), on_event)?;
    }
    Ok(socket)
}

/// What a log-in has brought so far.
#[derive(Default)]
struct LogIn {
    session: Session,
    done: bool,
}

impl LogIn {
    fn see(
        &mut self,
        packet: &Packet<'_>,
        on_event: &mut impl FnMut(&Event<'_>),
    ) -> anyhow::Result<()> {
        match packet {
            Packet::Event(json) => {
                let event = Event::read(json)?;
                if let Event::Session(session) = &event {
                    self.session = session.clone();
                }
                self.done |= matches!(event, Event::Users(_));
                on_event(&event);
            }
            Packet::Refused(why) => bail!("the log-in was refused: {why}"),
            Packet::Close => bail!("the server closed the session"),
            _ => {}
        }
        Ok(())
    }
}

/// Follows a user's socket until it closes: pings are answered.
pub(crate) async fn follow(
    socket: &mut WebSocket,
    mut on_event: impl FnMut(&Event<'_>),
) -> anyhow::Result<()> {
    loop {
        let text = socket.next().await?;
        match packet::read(&text) {
            Packet::Event(json) => on_event(&Event::read(json)?),
            Packet::Refused(why) => bail!("disconnected: {why}"),
            Packet::Close => bail!("the server closed the session"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read() {
        let read = |json| Event::read(json).unwrap();
        let session = read(r#"["session",{"sessionID":"s","userID":"u"}]"#);
        assert!(matches!(session, Event::Session(Session { user_id, .. }) if user_id == "u"));
        assert!(matches!(read(r#"["users",[]]"#), Event::Users("[]")));
        let message =
            read(r#"["private message",{"id":"a-1","content":"é","from":"x","to":"y","at":1}]"#);
        assert!(matches!(message, Event::PrivateMessage(message) if message.id == "a-1"));
        let left = read(r#"["user disconnected","u"]"#);
        assert!(matches!(left, Event::UserDisconnected(id) if id == "u"));
        assert!(matches!(read(r#"["chat",1]"#), Event::Other));
        assert!(Event::read("nonsense").is_err());
    }

    #[test]
    fn answers_are_read() {
        let read = |json| Answer::read(json).unwrap();
        assert_eq!(read(r#"[{"ok":true,"id":"m1","at":5}]"#), Answer::Stored);
        let refused = r#"[{"ok":false,"error":{"code":"unavailable","message":"é"}}]"#;
        assert_eq!(read(refused), Answer::Refused("unavailable".into()));
        assert!(Answer::read("[]").is_err());
    }
}
