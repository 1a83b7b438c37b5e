//! The embedded store: what every store has to do, and what it promises when things break.

mod conformance;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_worker::chat::history::PageRequest;
use chat_worker::chat::lobby::{CHANNEL, NewLine};
use chat_worker::chat::message::Message;
use chat_worker::store::sqlite::{self, Durability, SqliteStore, SqliteStoreConfig};
use chat_worker::store::{Announce, Health, Position, Store, StoreError};
use futures_util::future::BoxFuture;
use redis_adapter::{Bus, BusError, Publication};
use rusqlite::Connection;
use tokio::sync::watch;

use conformance::{Cluster, Lives, PATIENCE, connected, message, session, unannounced};

/// Keeps what is published.
struct Recorder {
    published: Mutex<Vec<(String, Bytes)>>,
    up: watch::Sender<bool>,
}

impl Recorder {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            published: Mutex::default(),
            up: watch::Sender::new(true),
        })
    }
}

impl Bus for Recorder {
    fn publish(&self, channel: String, payload: Bytes) -> BoxFuture<'static, Result<(), BusError>> {
        self.published.lock().unwrap().push((channel, payload));
        Box::pin(std::future::ready(Ok(())))
    }

    fn subscribe(&self, _: Vec<String>) -> BoxFuture<'static, Result<(), BusError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn unsubscribe(&self, _: Vec<String>) {}

    fn subscribers(&self, channels: Vec<String>) -> BoxFuture<'static, Result<Vec<u64>, BusError>> {
        Box::pin(std::future::ready(Ok(vec![0; channels.len()])))
    }

    fn watch_up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }
}

struct Directory(tempfile::TempDir);

impl Cluster for Directory {
    fn process_with(&self, lives: Lives) -> Arc<dyn Store> {
        let config = SqliteStoreConfig {
            session_ttl: lives.session,
            message_ttl: lives.message,
            history_max: lives.kept,
            ..config(self.0.path())
        };
        SqliteStore::start(config, Recorder::new()).unwrap()
    }
}

fn config(data_dir: &Path) -> SqliteStoreConfig {
    SqliteStoreConfig {
        data_dir: data_dir.to_owned(),
        durability: Durability::Normal,
        session_ttl: Duration::from_secs(24 * 60 * 60),
        message_ttl: Duration::from_secs(24 * 60 * 60),
        history_max: 10_000,
        operation_timeout: Duration::from_secs(10),
        grace: conformance::GRACE,
        tend_interval: Duration::from_millis(200),
    }
}

#[tokio::test]
async fn sqlite_conforms() {
    conformance::run(&Directory(tempfile::tempdir().unwrap())).await;
}

#[tokio::test]
async fn the_last_to_leave_clears_up() {
    let directory = Directory(tempfile::tempdir().unwrap());
    conformance::the_last_to_leave_clears_up(&directory).await;
}

#[tokio::test]
async fn sqlite_conforms_when_each_commit_is_synced() {
    struct Synced(tempfile::TempDir);
    impl Cluster for Synced {
        fn process_with(&self, lives: Lives) -> Arc<dyn Store> {
            let config = SqliteStoreConfig {
                durability: Durability::Full,
                session_ttl: lives.session,
                message_ttl: lives.message,
                history_max: lives.kept,
                ..config(self.0.path())
            };
            SqliteStore::start(config, Recorder::new()).unwrap()
        }
    }
    conformance::run(&Synced(tempfile::tempdir().unwrap())).await;
}

fn start(config: SqliteStoreConfig) -> Arc<SqliteStore> {
    SqliteStore::start(config, Recorder::new()).unwrap()
}

/// To look at what is stored.
fn inspect(data_dir: &Path) -> Connection {
    Connection::open(data_dir.join("chat.db")).unwrap()
}

fn count(connection: &Connection, what: &str) -> i64 {
    let count = format!("SELECT count(*) FROM {what}");
    connection.query_row(&count, [], |row| row.get(0)).unwrap()
}

async fn until(what: &str, mut ask: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ask() {
        assert!(Instant::now() < deadline, "this does not happen: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_moved(connection: &Connection) {
    until("all is moved", || count(connection, "recent") == 0).await;
}

async fn send(store: &SqliteStore, id: &str, from: &str, to: &str) {
    let new = message(id, from, to);
    assert!(store.append(new, unannounced()).await.unwrap().fresh);
}

fn ids(messages: &[Message]) -> Vec<&str> {
    messages.iter().filter_map(|m| m.id.as_deref()).collect()
}

async fn replayed(store: &SqliteStore, user: &str) -> Vec<Message> {
    let replay = store.replay(user, Position::default()).await.unwrap();
    replay.messages
}

async fn page(store: &SqliteStore, user: &str, with: &str) -> Vec<Message> {
    let request = PageRequest {
        with: with.into(),
        before: None,
        limit: 200,
    };
    store.page(user, &request).await.unwrap()
}

async fn up(store: &SqliteStore, up: bool) {
    let mut health = store.health();
    let changed = health.wait_for(|health| (*health == Health::Up) == up);
    let changed = tokio::time::timeout(PATIENCE, changed).await;
    changed.expect("in time").unwrap();
}

/// A look at the length of the log opened `chat.db-shm` and closed it again, which ended this
/// process's locks on it. The next process to come cut the file short, and all others died of
/// SIGBUS.
#[tokio::test]
async fn the_lock_that_says_that_the_log_is_in_use_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(config(dir.path()));
    for n in 0..300 {
        send(&store, &format!("m{n}"), "a", "b").await;
    }
    until("the upkeep did its rounds", || {
        // On a connection that stays: closing one must not be what this test looks at.
        count(&inspect(dir.path()), "recent") == 0
    })
    .await;
    let index = std::fs::metadata(dir.path().join("chat.db-shm")).unwrap();
    let (pid, inode) = (std::process::id().to_string(), index.ino().to_string());
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    let held = locks.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // SQLite's "dead man's switch" is byte 128 of that file.
        matches!(words[..], [_, "POSIX", _, "READ", of, file, "128", "128"]
            if of == pid && file.rsplit(':').next() == Some(&inode))
    });
    assert!(held, "{locks}");
}

#[tokio::test]
async fn a_message_is_announced_once_and_before_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let bus = Recorder::new();
    let store = SqliteStore::start(config(dir.path()), bus.clone()).unwrap();
    let announce = |id: &str| -> Announce {
        let channel = id.to_owned();
        Box::new(move |at| {
            let (channel, payload) = (channel.clone(), at.to_string().into());
            vec![Publication { channel, payload }]
        })
    };
    for (id, to) in [("m1", "b"), ("m2", "a")] {
        let first = store.append(message(id, "a", to), announce(id)).await;
        let first = first.unwrap();
        let published = bus.published.lock().unwrap().clone();
        let expected = (id.to_owned(), Bytes::from(first.at.to_string()));
        assert_eq!(published.last(), Some(&expected));
        let again = store.append(message(id, "a", to), announce(id)).await;
        assert_eq!(again.unwrap().at, first.at);
        assert_eq!(bus.published.lock().unwrap().len(), published.len());
    }
}

async fn is_connected(store: &Arc<SqliteStore>, user: &str) -> bool {
    let store: Arc<dyn Store> = store.clone();
    connected(&store, user).await == Some(true)
}

/// While nobody can write, sends are refused in time and reads go on; what was refused because its
/// time was over is not stored behind its sender's back.
#[tokio::test]
async fn a_lock_that_is_not_given_back_costs_bounded_time_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(SqliteStoreConfig {
        operation_timeout: Duration::from_millis(500),
        ..config(dir.path())
    });
    store.connect(&session("a"), "s1").await.unwrap();
    send(&store, "m1", "a", "b").await;
    up(&store, true).await;
    assert!(is_connected(&store, "a").await);

    let lock = File::open(dir.path().join("writer.lock")).unwrap();
    lock.lock().unwrap();
    let asked = Instant::now();
    // The first is taken by the writer, which waits for the lock; the second waits behind it.
    let new = |id| store.append(message(id, "a", "b"), unannounced());
    let (taken, waiting) = tokio::join!(new("m2"), new("m3"));
    for refused in [taken, waiting] {
        assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    }
    assert!(asked.elapsed() < Duration::from_secs(10));
    up(&store, false).await;
    assert_eq!(ids(&replayed(&store, "b").await), ["m1"]);
    assert!(is_connected(&store, "a").await);
    assert!(store.find_session("session-of-a").await.unwrap().is_some());
    lock.unlock().unwrap();

    up(&store, true).await;
    // It was under way, and may have been stored; sending it again tells.
    let new = message("m2", "a", "b");
    store.append(new, unannounced()).await.unwrap();
    assert_eq!(ids(&replayed(&store, "b").await), ["m1", "m2"]);
    send(&store, "m3", "a", "b").await;
}

#[tokio::test]
async fn what_nobody_has_any_more_is_removed_and_what_one_side_has_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let ttl = Duration::from_millis(1500);
    let store = start(SqliteStoreConfig {
        message_ttl: ttl,
        history_max: 10_000,
        ..config(dir.path())
    });
    up(&store, true).await;
    let connection = inspect(dir.path());
    send(&store, "m1", "a", "b").await;
    send(&store, "m2", "a", "c").await;
    // `b` goes on talking to somebody else, so it keeps what it has; the time of the others passes.
    let mut n = 0;
    let deadline = Instant::now() + PATIENCE;
    while !replayed(&store, "a").await.is_empty() {
        assert!(Instant::now() < deadline, "nothing expires");
        n += 1;
        send(&store, &format!("n{n}"), "b", "d").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(page(&store, "a", "b").await.is_empty());
    assert!(replayed(&store, "c").await.is_empty());
    assert_eq!(ids(&page(&store, "b", "a").await), ["m1"]);
    // Who begins anew ends the old log, which is then swept.
    send(&store, "m3", "a", "c").await;
    let mut wait = tokio::time::interval(Duration::from_millis(100));
    while count(&connection, "messages WHERE id = 'm2'") > 0 {
        assert!(Instant::now() < deadline, "nothing is removed");
        n += 1;
        send(&store, &format!("n{n}"), "b", "d").await;
        wait.tick().await;
    }
    assert_eq!(ids(&page(&store, "b", "a").await), ["m1"]);
}

#[tokio::test]
async fn a_position_by_age_leaves_out_what_is_older_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(config(dir.path()));
    let from = async |age: Duration| {
        let position = store.position(age).await.unwrap().expect("one order");
        let replay = store.replay("b", position).await.unwrap();
        ids(&replay.messages).join(" ")
    };
    assert_eq!(from(Duration::ZERO).await, "");
    for id in ["m1", "m2"] {
        send(&store, id, "a", "b").await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let since = Instant::now();
    tokio::time::sleep(Duration::from_millis(50)).await;
    // Once while they are recent, and once after they were moved, if only from now on.
    for moved in [false, true] {
        if moved {
            until_moved(&inspect(dir.path())).await;
        } else {
            send(&store, "m3", "a", "b").await;
        }
        assert_eq!(from(since.elapsed()).await, "m3");
        assert_eq!(from(Duration::from_secs(3600)).await, "m1 m2 m3");
        // What is stored in this very millisecond is none too old.
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(from(Duration::ZERO).await, "");
    }
    send(&store, "m4", "a", "b").await;
    assert_eq!(from(since.elapsed()).await, "m3 m4");
}

/// Makes of the present version the second one, which has no index of users.
const SECOND_VERSION: &str = "
    DROP INDEX sessions_by_user; DROP TABLE users; DROP TABLE names;
    DELETE FROM state WHERE name IN ('version', 'users'); PRAGMA user_version = 2;
    INSERT INTO sessions (id, user, name, expires) VALUES ('s', 'u', 'Ada', 1 << 60);";

fn older_database(dir: &std::path::Path, sql: &[&str]) {
    sqlite::check(dir).unwrap();
    let database = Connection::open(dir.join("chat.db")).unwrap();
    database.execute_batch(&sql.concat()).unwrap();
    drop(database);
    sqlite::check(dir).unwrap();
}

#[tokio::test]
async fn a_database_of_the_second_version_gets_its_index_of_users() {
    let dir = tempfile::tempdir().unwrap();
    let more = "INSERT INTO sessions (id, user, name, expires)
        VALUES ('t', 'u', 'Ada', 1 << 60), ('v', 'w', 'Eve', 1 << 60);";
    older_database(dir.path(), &[SECOND_VERSION, more]);
    let store: Arc<dyn Store> = SqliteStore::start(config(dir.path()), Recorder::new()).unwrap();
    let users = conformance::everybody(&store).await;
    let users: Vec<_> = users
        .iter()
        .map(|user| (&*user.id, &*user.name, user.connected))
        .collect();
    assert_eq!(users, [("u", "Ada", false), ("w", "Eve", false)]);
    assert_eq!(store.recent(0, 9).await.unwrap().total, 2);
}

/// A database of the first version has neither a lobby nor ends of sessions.
#[tokio::test]
async fn a_database_of_the_first_version_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let first =
        "DROP TABLE lobby; ALTER TABLE sessions DROP COLUMN ended; PRAGMA user_version = 1;";
    older_database(dir.path(), &[SECOND_VERSION, first]);
    let store = SqliteStore::start(config(dir.path()), Recorder::new()).unwrap();
    assert!(!is_connected(&store, "u").await);
    let found = store.find_session("s").await.unwrap();
    assert_eq!(found.map(|session| session.name), Some("Ada".to_owned()));
    assert!(store.end_session("s").await.unwrap());
    assert_eq!(store.find_session("s").await.unwrap(), None);
    assert!(store.said().await.unwrap().lines.is_empty());
}

#[tokio::test]
async fn what_is_said_in_the_lobby_is_published_once() {
    let dir = tempfile::tempdir().unwrap();
    let bus = Recorder::new();
    let store = SqliteStore::start(config(dir.path()), bus.clone()).unwrap();
    let line = NewLine {
        from: "u1".into(),
        user: "ada".into(),
        msg: "hi".into(),
        id: "m1".into(),
    };
    let stored = store.say(line.clone()).await.unwrap();
    store.say(line.clone()).await.unwrap();
    let expected = (CHANNEL.to_owned(), line.stored(stored.at).to_json().into());
    assert_eq!(*bus.published.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn other_databases_are_refused_and_left_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |prepare: &str| {
        let dir = tempfile::tempdir_in(dir.path()).unwrap();
        let connection = inspect(dir.path());
        connection.execute_batch(prepare).unwrap();
        drop(connection);
        let before = std::fs::read(dir.path().join("chat.db")).unwrap();
        let why = sqlite::check(dir.path()).unwrap_err().to_string();
        assert!(!why.contains('\n'), "{why}");
        assert!(before == std::fs::read(dir.path().join("chat.db")).unwrap());
        why
    };
    let others = "CREATE TABLE others (a); INSERT INTO others VALUES (1);";
    let why = refused(others);
    assert!(why.contains("not a database of chat-cluster"), "{why}");
    let why = refused(&format!("{others} PRAGMA application_id = 7;"));
    assert!(why.contains("not a database of chat-cluster"), "{why}");
    let newer = "PRAGMA application_id = 0x63636462; PRAGMA user_version = 99;";
    let why = refused(&format!("{others} {newer}"));
    assert!(why.contains("another version"), "{why}");
    // One that is only just made by a process that died at once is completed.
    let empty = tempfile::tempdir_in(dir.path()).unwrap();
    File::create(empty.path().join("chat.db")).unwrap();
    sqlite::check(empty.path()).unwrap();
    sqlite::check(empty.path()).unwrap();
}

/// What a process is told by that plays the one that freezes: the data directory.
const FREEZE_ON: &str = "CHAT_CLUSTER_TEST_FREEZE_ON";

/// Reads, and stops itself in the middle of it.
fn freeze_while_reading(data_dir: &Path) -> ! {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let store = start(config(data_dir));
    runtime.block_on(up(&store, true));
    let connection = inspect(data_dir);
    connection.execute_batch("BEGIN").unwrap();
    assert!(count(&connection, "recent") + count(&connection, "messages") > 0);
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::STOP).unwrap();
    // It takes effect in a moment.
    loop {
        std::thread::park();
    }
}

/// The log cannot begin anew under somebody who reads it, so a process that froze at that made it
/// grow until the disk was full.
#[test]
fn a_process_that_freezes_while_it_reads_does_not_fill_the_disk() {
    if let Some(data_dir) = std::env::var_os(FREEZE_ON) {
        freeze_while_reading(data_dir.as_ref());
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let store = start(config(dir.path()));
    runtime.block_on(send(&store, "first", "a", "b"));
    let name = "a_process_that_freezes_while_it_reads_does_not_fill_the_disk";
    let mut frozen = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(FREEZE_ON, dir.path())
        .spawn()
        .unwrap();
    let stat = format!("/proc/{}/stat", frozen.id());
    let stopped = || std::fs::read_to_string(&stat).unwrap().contains(") T ");
    runtime.block_on(until("it has stopped", stopped));

    let wal = dir.path().join("chat.db-wal");
    let grown = || std::fs::metadata(&wal).unwrap().len();
    let deadline = Instant::now() + PATIENCE * 4;
    let mut n = 0;
    let ended = loop {
        if let Some(ended) = frozen.try_wait().unwrap() {
            break ended;
        }
        assert!(
            Instant::now() < deadline,
            "{} bytes, and it is left alone",
            grown()
        );
        runtime.block_on(async {
            for _ in 0..10 {
                n += 1;
                let mut new = message(&format!("m{n}"), "a", "b");
                new.content = "x".repeat(1_000_000);
                store.append(new, unannounced()).await.unwrap();
            }
        });
    };
    assert_eq!(ended.code(), None, "it was killed: {ended}");
    // It was spared as long as the log was not too long.
    assert!(grown() >= 256 * 1024 * 1024, "{}", grown());
    assert_eq!(runtime.block_on(replayed(&store, "c")), []);
}
