//! socketioxide in one process, with everything in memory: what the chat costs without a store,
//! without other workers and without anybody in front. It can be told to break its word, for the
//! tests of the load generator.

use std::collections::{BTreeMap, HashMap};
use std::future::ready;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use futures_util::FutureExt as _;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef, TryData};
use socketioxide::handler::ConnectHandler as _;
use tokio::net::TcpListener;

/// The same bound as ours.
const MAX_PAYLOAD: u64 = 1_000_000;

/// How it breaks its word.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Fault {
    /// A message is acknowledged and not delivered
    Drop,
    /// A message is delivered twice
    Double,
    /// A message is delivered after the next one of its sender
    Swap,
}

/// Serves on a free port, until it is killed.
pub(crate) fn run(fault: Option<(Fault, u64)>) -> anyhow::Result<()> {
    crate::open_files::raise_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(fault))
}

async fn serve(fault: Option<(Fault, u64)>) -> anyhow::Result<()> {
    let chat = Chat(Arc::new(Mutex::new(Rooms {
        fault,
        ..Rooms::default()
    })));
    let (service, io) = SocketIo::builder().max_payload(MAX_PAYLOAD).build_svc();
    let door = chat.clone();
    let authenticate =
        move |socket: SocketRef, auth: TryData<Auth>| ready(door.authenticate(&socket, auth));
    io.ns(
        "/",
        (move |socket: SocketRef| {
            chat.connect(&socket);
            ready(())
        })
        .with(authenticate),
    );
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    rustix::net::listen(&listener, 4096)?;
    println!("ready at http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
        tokio::spawn(async move {
            // How a client's connection ends is the client's affair.
            let _ = connection.with_upgrades().await;
        });
    }
}

#[derive(Clone)]
struct Chat(Arc<Mutex<Rooms>>);

#[derive(Default)]
struct Rooms {
    sessions: HashMap<String, Session>,
    /// By user id.
    people: BTreeMap<String, Person>,
    messages: HashMap<String, Vec<Arc<Message>>>,
    next_id: u64,
    fault: Option<(Fault, u64)>,
    /// Messages so far, for the fault.
    delivered: u64,
    /// A message that its sender's next one overtakes.
    held: Option<Arc<Message>>,
}

#[derive(Clone, Serialize)]
struct Session {
    #[serde(rename = "sessionID")]
    session_id: String,
    #[serde(rename = "userID")]
    user_id: String,
}

struct Person {
    username: String,
    sockets: usize,
}

#[derive(Debug, Serialize)]
struct Message {
    id: String,
    content: String,
    from: String,
    to: String,
    at: u64,
}

#[derive(Serialize)]
struct PersonShown<'a> {
    #[serde(rename = "userID")]
    user_id: &'a str,
    username: &'a str,
    connected: bool,
    messages: Vec<&'a Message>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Auth {
    #[serde(rename = "sessionID")]
    session_id: Option<String>,
    username: Option<String>,
}

#[derive(Deserialize)]
struct Incoming {
    content: String,
    to: String,
    id: Option<String>,
}

// All in memory: nothing is waited for. A handler's work is done when it is called, which is in
// its client's order, and the future that it has to give is a ready one.
impl Chat {
    fn lock(&self) -> MutexGuard<'_, Rooms> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn authenticate(
        &self,
        socket: &SocketRef,
        TryData(auth): TryData<Auth>,
    ) -> Result<(), &'static str> {
        let auth = auth.map_err(|_| "invalid username")?;
        let mut rooms = self.lock();
        let known = auth
            .session_id
            .and_then(|id| rooms.sessions.get(&id).cloned());
        let session = match (known, auth.username) {
            (Some(session), _) => session,
            (None, Some(username)) if !username.trim().is_empty() => {
                rooms.new_session(username.trim())
            }
            _ => return Err("invalid username"),
        };
        socket.extensions.insert(session);
        Ok(())
    }

    fn connect(&self, socket: &SocketRef) {
        let Some(session) = socket.extensions.get::<Session>() else {
            return;
        };
        let chat = self.clone();
        socket.on(
            "private message",
            move |socket: SocketRef, message: Data<Incoming>, ack: AckSender| {
                chat.private_message(&socket, message, ack);
                ready(())
            },
        );
        let chat = self.clone();
        socket.on_disconnect(move |socket: SocketRef| {
            chat.disconnect(&socket);
            ready(())
        });
        let mut rooms = self.lock();
        let _ = socket.emit("session", &session);
        socket.join(session.user_id.clone());
        let person = rooms.people.get_mut(&session.user_id);
        let came = person.is_some_and(|person| {
            person.sockets += 1;
            person.sockets == 1
        });
        let _ = socket.emit("users", &rooms.users(&session.user_id));
        if came && let Some(person) = rooms.people.get(&session.user_id) {
            let shown = PersonShown {
                user_id: &session.user_id,
                username: &person.username,
                connected: true,
                messages: Vec::new(),
            };
            let _ = socket
                .broadcast()
                .emit("user connected", &shown)
                .now_or_never();
        }
    }

    fn private_message(&self, socket: &SocketRef, Data(incoming): Data<Incoming>, ack: AckSender) {
        let Some(session) = socket.extensions.get::<Session>() else {
            return;
        };
        let mut rooms = self.lock();
        let id = incoming.id.unwrap_or_else(|| rooms.new_id());
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let message = Arc::new(Message {
            id,
            content: incoming.content,
            from: session.user_id,
            to: incoming.to,
            at: now.as_millis() as u64,
        });
        for user in [&message.from, &message.to] {
            rooms
                .messages
                .entry(user.clone())
                .or_default()
                .push(message.clone());
        }
        for message in rooms.with_fault(message.clone()) {
            let to = [message.to.clone(), message.from.clone()];
            let _ = socket
                .to(to)
                .emit("private message", &*message)
                .now_or_never();
        }
        drop(rooms);
        let _ = ack.send(&serde_json::json!({ "ok": true, "id": message.id, "at": message.at }));
    }

    fn disconnect(&self, socket: &SocketRef) {
        let Some(session) = socket.extensions.get::<Session>() else {
            return;
        };
        let mut rooms = self.lock();
        let Some(person) = rooms.people.get_mut(&session.user_id) else {
            return;
        };
        person.sockets -= 1;
        if person.sockets == 0 {
            let _ = socket
                .broadcast()
                .emit("user disconnected", &session.user_id)
                .now_or_never();
        }
    }
}

impl Rooms {
    /// Not a secret: nobody has to be kept out of a benchmark.
    fn new_id(&mut self) -> String {
        self.next_id += 1;
        format!("{:022x}", self.next_id)
    }

    fn new_session(&mut self, username: &str) -> Session {
        let session = Session {
            session_id: self.new_id(),
            user_id: self.new_id(),
        };
        self.sessions
            .insert(session.session_id.clone(), session.clone());
        let person = Person {
            username: username.to_owned(),
            sockets: 0,
        };
        self.people.insert(session.user_id.clone(), person);
        session
    }

    fn users<'a>(&'a self, user_id: &str) -> Vec<PersonShown<'a>> {
        let mut with: HashMap<&str, Vec<&Message>> = HashMap::new();
        for message in self.messages.get(user_id).into_iter().flatten() {
            let other = if message.from == user_id {
                &message.to
            } else {
                &message.from
            };
            with.entry(other).or_default().push(message);
        }
        let people = self.people.iter();
        people
            .map(|(user_id, person)| PersonShown {
                user_id,
                username: &person.username,
                connected: person.sockets > 0,
                messages: with.remove(user_id.as_str()).unwrap_or_default(),
            })
            .collect()
    }

    /// The messages to deliver now that this one was sent.
    fn with_fault(&mut self, message: Arc<Message>) -> Vec<Arc<Message>> {
        let Some((fault, every)) = self.fault else {
            return vec![message];
        };
        self.delivered += 1;
        let overtaken = self
            .held
            .take_if(|held| held.from == message.from && held.to == message.to);
        let mut deliver = vec![message.clone()];
        deliver.extend(overtaken);
        if self.delivered.is_multiple_of(every) {
            match fault {
                Fault::Drop => deliver.clear(),
                Fault::Double => deliver.push(message),
                Fault::Swap => {
                    deliver.clear();
                    self.held = Some(message);
                }
            }
        }
        deliver
    }
}
