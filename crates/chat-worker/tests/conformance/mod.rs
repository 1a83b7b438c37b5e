//! What every store has to do, whatever keeps it: to be run over each implementation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chat_worker::chat::history::PageRequest;
use chat_worker::chat::lobby::{KEPT, NewLine};
use chat_worker::chat::message::{Message, NewMessage};
use chat_worker::chat::recent_users::Recent;
use chat_worker::chat::roster::User;
use chat_worker::chat::user_index::UsersPage;
use chat_worker::store::{
    Announce, Connected, Position, PresenceChange, Session, Store, StoreError,
};
use serde_json::json;

/// Makes stores over one and the same place: each stands for a process of the cluster. Dropping
/// one stands for `kill -9`. Leases must end within seconds, sessions live longer than leases.
pub(crate) trait Cluster {
    fn process(&self) -> Arc<dyn Store> {
        self.process_with(Lives::default())
    }

    fn process_with(&self, lives: Lives) -> Arc<dyn Store>;
}

/// How long things are kept.
pub(crate) struct Lives {
    pub(crate) session: Duration,
    pub(crate) message: Duration,
    /// The most messages of a user.
    pub(crate) kept: usize,
}

impl Default for Lives {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Lives {
            session: DAY,
            message: DAY,
            kept: 10_000,
        }
    }
}

/// How long the users of a process that left or died are expected back, in these tests.
pub(crate) const GRACE: Duration = Duration::from_millis(1200);

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn session(user: &str) -> Session {
    Session {
        id: format!("session-of-{user}"),
        user: user.into(),
        name: user.to_uppercase(),
    }
}

pub(crate) fn message(id: &str, from: &str, to: &str) -> NewMessage {
    NewMessage {
        id: id.into(),
        content: format!("content of {id}"),
        from: from.into(),
        to: to.into(),
    }
}

fn is_in(connected: Result<Connected, StoreError>) -> bool {
    matches!(connected, Ok(Connected::Here(_)))
}

/// For tests in which nobody listens.
pub(crate) fn unannounced() -> Announce {
    Box::new(|_at| Vec::new())
}

fn ids(messages: &[Message]) -> Vec<&str> {
    messages.iter().filter_map(|m| m.id.as_deref()).collect()
}

async fn all(store: &Arc<dyn Store>, user: &str) -> Vec<Message> {
    store
        .replay(user, Position::default())
        .await
        .unwrap()
        .messages
}

pub(crate) async fn connected(store: &Arc<dyn Store>, user: &str) -> Option<bool> {
    let found = store.look_up(&[user.to_owned()]).await.unwrap();
    found.first().map(|user| user.connected)
}

pub(crate) fn page(payload: serde_json::Value) -> UsersPage {
    UsersPage::from_payload(&payload).unwrap()
}

/// Every user, page by page.
pub(crate) async fn everybody(store: &Arc<dyn Store>) -> Vec<User> {
    let mut users: Vec<User> = Vec::new();
    loop {
        let after = users.last().map(|user| user.id.clone());
        let page = page(json!({"after": after, "limit": 200}));
        let next = store.users_page(&page).await.unwrap().unwrap();
        if next.is_empty() {
            return users;
        }
        users.extend(next);
    }
}

pub(crate) fn gone(user: &str) -> PresenceChange {
    let Session { user, name, .. } = session(user);
    PresenceChange::Gone { user, name }
}

/// Tends until it reports something, and returns that.
pub(crate) async fn tend_until_something(store: &Arc<dyn Store>) -> Vec<PresenceChange> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let changes = store.tend().await.unwrap();
        if !changes.is_empty() {
            return changes;
        }
        assert!(Instant::now() < deadline, "nothing was repaired");
        tokio::time::sleep(store.tend_interval()).await;
    }
}

pub(crate) async fn run(cluster: &dyn Cluster) {
    a_session_is_found_once_it_has_connected(cluster).await;
    both_sides_have_the_messages_in_order(cluster).await;
    the_same_id_again_stores_nothing_and_has_the_first_time(cluster).await;
    ids_are_unique_per_sender_only(cluster).await;
    a_message_to_oneself_is_stored_once(cluster).await;
    any_text_comes_back_as_it_was(cluster).await;
    one_id_from_two_processes_at_once_is_stored_once(cluster).await;
    the_largest_content_comes_back(cluster).await;
    pages_walk_back_through_one_conversation(cluster).await;
    messages_expire_together_after_the_last_and_begin_anew(cluster).await;
    a_session_expires_unless_a_socket_of_it_lives(cluster).await;
    a_session_that_ended_lets_nobody_in_and_its_user_is_still_listed(cluster).await;
    the_lobby_keeps_the_last_messages_in_order_once(cluster).await;
    what_was_said_in_the_lobby_expires_together(cluster).await;
    a_reader_sees_each_writers_messages_in_order_and_never_fewer(cluster).await;
    ten_thousand_users_are_listed_by_name(cluster).await;
    users_are_found_by_the_words_of_their_names(cluster).await;
    each_change_of_a_user_has_the_next_number(cluster).await;
    a_user_who_has_expired_is_not_listed_any_more(cluster).await;
    a_user_keeps_the_newest_messages(cluster).await;
    a_replay_goes_on_where_the_last_one_ended(cluster).await;
    many_writers_lose_nothing_and_keep_each_ones_order(cluster).await;
    a_user_is_gone_with_the_last_socket_in_the_cluster(cluster).await;
    who_is_back_elsewhere_is_not_shown_as_gone(cluster).await;
    of_many_who_leave_at_once_one_is_the_last(cluster).await;
    a_dead_process_is_repaired_once(cluster).await;
    who_came_back_is_not_repaired_away(cluster).await;
    who_was_left_behind_is_expected_back_for_a_while(cluster).await;
}

async fn a_session_is_found_once_it_has_connected(cluster: &dyn Cluster) {
    let (a, b) = (cluster.process(), cluster.process());
    let ada = session("ada");
    assert_eq!(b.find_session(&ada.id).await.unwrap(), None);
    a.connect(&ada, "s1").await.unwrap();
    assert_eq!(b.find_session(&ada.id).await.unwrap(), Some(ada.clone()));
    assert_eq!(b.find_session("no such*session").await.unwrap(), None);
    assert_eq!(connected(&b, "ada").await, Some(true));
    let name = async || b.connected_name("ada").await.unwrap();
    assert_eq!(name().await, Some(ada.name.clone()));
    assert!(a.disconnect(&ada, "s1").await.unwrap());
    assert_eq!(connected(&b, "ada").await, Some(false));
    assert_eq!(name().await, None);
    assert_eq!(b.connected_name("nobody").await.unwrap(), None);
    assert_eq!(b.find_session(&ada.id).await.unwrap(), Some(ada));
}

async fn both_sides_have_the_messages_in_order(cluster: &dyn Cluster) {
    let store = cluster.process();
    let mut times = Vec::new();
    for id in ["o1", "o2", "o3"] {
        let stored = store
            .append(message(id, "or1", "or2"), unannounced())
            .await
            .unwrap();
        assert!(stored.fresh);
        times.push(stored.at);
    }
    assert!(times.is_sorted());
    let (sent, received) = (all(&store, "or1").await, all(&store, "or2").await);
    assert_eq!(ids(&sent), ["o1", "o2", "o3"]);
    assert_eq!(sent, received);
    assert_eq!(sent[0], message("o1", "or1", "or2").stored(times[0]));
}

async fn the_same_id_again_stores_nothing_and_has_the_first_time(cluster: &dyn Cluster) {
    let (a, b) = (cluster.process(), cluster.process());
    let first = a
        .append(message("d1", "du1", "du2"), unannounced())
        .await
        .unwrap();
    // Long enough for a clock in milliseconds to have moved.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let again = b
        .append(message("d1", "du1", "du2"), unannounced())
        .await
        .unwrap();
    assert!(first.fresh && !again.fresh);
    assert_eq!(first.at, again.at);
    assert_eq!(ids(&all(&a, "du1").await), ["d1"]);
    assert_eq!(ids(&all(&a, "du2").await), ["d1"]);
    // Another recipient under the same id, too, and oneself.
    for to in ["du3", "du1"] {
        let other = b
            .append(message("d1", "du1", to), unannounced())
            .await
            .unwrap();
        assert!(!other.fresh);
        assert_eq!(other.at, first.at);
    }
    assert_eq!(ids(&all(&a, "du1").await), ["d1"]);
    assert!(all(&a, "du3").await.is_empty());
}

async fn ids_are_unique_per_sender_only(cluster: &dyn Cluster) {
    let store = cluster.process();
    assert!(
        store
            .append(message("x", "un1", "un2"), unannounced())
            .await
            .unwrap()
            .fresh
    );
    assert!(
        store
            .append(message("x", "un2", "un1"), unannounced())
            .await
            .unwrap()
            .fresh
    );
    assert_eq!(ids(&all(&store, "un1").await), ["x", "x"]);
}

async fn a_message_to_oneself_is_stored_once(cluster: &dyn Cluster) {
    let store = cluster.process();
    assert!(
        store
            .append(message("m", "self", "self"), unannounced())
            .await
            .unwrap()
            .fresh
    );
    assert_eq!(ids(&all(&store, "self").await), ["m"]);
}

async fn any_text_comes_back_as_it_was(cluster: &dyn Cluster) {
    let store = cluster.process();
    let texts = [
        "",
        "Grüße, Жук, 李白, 🦀",
        "\"quotes\" \\ and \u{0000} \u{001b} \n\t",
        "{\"json\":[1,2]}",
        "\u{2028}%s %d ]]>",
    ];
    for (n, text) in texts.iter().enumerate() {
        let mut new = message(&format!("t{n}"), "txt", "txt2");
        new.content = (*text).into();
        store.append(new, unannounced()).await.unwrap();
    }
    let read = all(&store, "txt2").await;
    let read: Vec<_> = read.iter().map(|m| m.content.as_str().unwrap()).collect();
    assert_eq!(read, texts);
}

async fn one_id_from_two_processes_at_once_is_stored_once(cluster: &dyn Cluster) {
    let (a, b) = (cluster.process(), cluster.process());
    for n in 0..50 {
        let new = message(&format!("same{n}"), "race1", "race2");
        let (first, second) = tokio::join!(
            a.append(new.clone(), unannounced()),
            b.append(new, unannounced())
        );
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first.at, second.at);
        // Redis may find a message half stored by the other, and complete it.
        assert!(first.fresh || second.fresh);
    }
    for user in ["race1", "race2"] {
        assert_eq!(all(&a, user).await.len(), 50);
    }
}

async fn the_largest_content_comes_back(cluster: &dyn Cluster) {
    let store = cluster.process();
    let mut new = message("big", "big1", "big2");
    new.content = "Ж🦀 ".repeat(1_000_000 / 7);
    store.append(new.clone(), unannounced()).await.unwrap();
    let read = all(&store, "big2").await;
    assert!(read[0].content == new.content);
}

async fn messages_expire_together_after_the_last_and_begin_anew(cluster: &dyn Cluster) {
    let life = Duration::from_millis(1500);
    let store = cluster.process_with(Lives {
        message: life,
        ..Lives::default()
    });
    let send = async |id: &str| {
        let new = message(id, "exp1", "exp2");
        store.append(new, unannounced()).await.unwrap();
    };
    let page = async || {
        let request = PageRequest {
            with: "exp1".into(),
            before: None,
            limit: 10,
        };
        store.page("exp2", &request).await.unwrap()
    };
    send("e1").await;
    // Each gives those before it another life: after two thirds of one, and after four.
    tokio::time::sleep(life * 2 / 3).await;
    send("e2").await;
    tokio::time::sleep(life * 2 / 3).await;
    assert_eq!(ids(&all(&store, "exp2").await), ["e1", "e2"]);
    assert_eq!(ids(&page().await), ["e1", "e2"]);
    let deadline = Instant::now() + PATIENCE;
    while !all(&store, "exp2").await.is_empty() {
        assert!(Instant::now() < deadline, "they do not expire");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(page().await.is_empty());
    send("e3").await;
    assert_eq!(ids(&all(&store, "exp2").await), ["e3"]);
    assert_eq!(ids(&page().await), ["e3"]);
    // Also when a store has had the time to put things in order.
    tokio::time::sleep(life * 2 / 3).await;
    assert_eq!(ids(&all(&store, "exp2").await), ["e3"]);
    assert_eq!(ids(&page().await), ["e3"]);
}

async fn a_session_expires_unless_a_socket_of_it_lives(cluster: &dyn Cluster) {
    let life = Duration::from_secs(2);
    let store = cluster.process_with(Lives {
        session: life,
        ..Lives::default()
    });
    let (stays, goes) = (session("ses1"), session("ses2"));
    store.connect(&stays, "s1").await.unwrap();
    store.connect(&goes, "s2").await.unwrap();
    store.disconnect(&goes, "s2").await.unwrap();
    assert!(store.find_session(&goes.id).await.unwrap().is_some());
    let deadline = Instant::now() + PATIENCE;
    while store.find_session(&goes.id).await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "it does not expire");
        store.tend().await.unwrap();
        tokio::time::sleep(store.tend_interval()).await;
    }
    assert_eq!(connected(&store, "ses2").await, None);
    assert_eq!(connected(&store, "ses1").await, Some(true));
    assert_eq!(
        store.find_session(&stays.id).await.unwrap(),
        Some(stays.clone())
    );
    assert!(store.disconnect(&stays, "s1").await.unwrap());
    assert_eq!(store.find_session(&stays.id).await.unwrap(), Some(stays));
}

async fn a_session_that_ended_lets_nobody_in_and_its_user_is_still_listed(cluster: &dyn Cluster) {
    let (a, b) = (cluster.process(), cluster.process());
    let eve = session("eve");
    assert!(!a.end_session(&eve.id).await.unwrap());
    assert!(!a.end_session("no such*session").await.unwrap());
    a.begin_session(&eve).await.unwrap();
    assert_eq!(b.find_session(&eve.id).await.unwrap(), Some(eve.clone()));
    assert_eq!(connected(&b, "eve").await, Some(false));
    assert!(is_in(b.connect(&eve, "s1").await));
    assert_eq!(connected(&a, "eve").await, Some(true));
    assert!(!b.has_ended(&eve.id).await.unwrap());

    // Twice: whoever told of it the first time may have died over it.
    assert!(a.end_session(&eve.id).await.unwrap());
    assert!(a.end_session(&eve.id).await.unwrap());
    assert!(b.has_ended(&eve.id).await.unwrap());
    assert_eq!(b.find_session(&eve.id).await.unwrap(), None);
    assert_eq!(b.connected_name("eve").await.unwrap(), None);
    // Not by a socket that was on its way in, nor by one that says so again.
    assert_eq!(b.connect(&eve, "s2").await.unwrap(), Connected::Ended);
    b.begin_session(&eve).await.unwrap();
    b.tend().await.unwrap();
    assert_eq!(b.find_session(&eve.id).await.unwrap(), None);
    assert!(!b.disconnect(&eve, "s2").await.unwrap() || connected(&a, "eve").await == Some(false));
    b.disconnect(&eve, "s1").await.unwrap();
    assert_eq!(connected(&a, "eve").await, Some(false));

    // Another session of the same user is not concerned.
    let again = Session {
        id: "another-session-of-eve".into(),
        ..eve.clone()
    };
    a.begin_session(&again).await.unwrap();
    assert!(is_in(a.connect(&again, "s3").await));
    assert_eq!(connected(&b, "eve").await, Some(true));
    let name = b.connected_name("eve").await.unwrap();
    assert_eq!(name, Some(eve.name.clone()));
    a.disconnect(&again, "s3").await.unwrap();
}

fn line(id: &str, from: &str) -> NewLine {
    NewLine {
        from: from.into(),
        user: from.to_uppercase(),
        msg: format!("\u{1F600} \"text\" of {id}\n"),
        id: id.into(),
    }
}

async fn the_lobby_keeps_the_last_messages_in_order_once(cluster: &dyn Cluster) {
    let (a, b) = (cluster.process(), cluster.process());
    let first = a.say(line("first", "ada")).await.unwrap();
    assert!(first.fresh);
    for number in 0..KEPT - 1 {
        let store = if number % 2 == 0 { &a } else { &b };
        let line = line(&number.to_string(), "bob");
        assert!(store.say(line).await.unwrap().fresh);
    }
    let said = b.said().await.unwrap();
    assert_eq!(said.lines.len(), KEPT);
    assert_eq!(said.lines[0], line("first", "ada").stored(first.at));
    let times: Vec<u64> = said.lines.iter().map(|line| line.at).collect();
    assert!(times.is_sorted());
    assert!(said.as_of >= times[KEPT - 1]);

    // Ids are unique for their sender only, and remembered for longer than the message is kept.
    assert!(a.say(line("first", "bob")).await.unwrap().fresh);
    let again = b.say(line("first", "ada")).await.unwrap();
    assert_eq!((again.fresh, again.at), (false, first.at));
    let lines = b.said().await.unwrap().lines;
    assert_eq!(lines.len(), KEPT);
    assert_eq!((&*lines[0].id, &*lines[0].user), ("0", "BOB"));
    assert_eq!(lines[KEPT - 1].id, "first");

    let both = tokio::join!(a.say(line("race", "ada")), b.say(line("race", "ada")));
    let (one, other) = (both.0.unwrap(), both.1.unwrap());
    assert_eq!(one.at, other.at);
    assert_ne!(one.fresh, other.fresh);
}

async fn what_was_said_in_the_lobby_expires_together(cluster: &dyn Cluster) {
    let life = Duration::from_millis(1500);
    let store = cluster.process_with(Lives {
        message: life,
        ..Lives::default()
    });
    let texts = async || {
        let lines = store.said().await.unwrap().lines;
        lines.into_iter().map(|line| line.id).collect::<Vec<_>>()
    };
    store.say(line("old", "ada")).await.unwrap();
    tokio::time::sleep(life * 2 / 3).await;
    store.say(line("young", "ada")).await.unwrap();
    tokio::time::sleep(life * 2 / 3).await;
    let kept = texts().await;
    assert_eq!(kept[kept.len() - 2..], ["old", "young"]);
    let deadline = Instant::now() + PATIENCE;
    while !texts().await.is_empty() {
        assert!(Instant::now() < deadline, "nothing expired");
        tokio::time::sleep(life / 10).await;
    }
    store.say(line("new", "ada")).await.unwrap();
    assert_eq!(texts().await, ["new"]);
}

async fn a_reader_sees_each_writers_messages_in_order_and_never_fewer(cluster: &dyn Cluster) {
    const EACH: usize = 400;
    let reader = cluster.process();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..3 {
        let store = cluster.process();
        writers.spawn(async move {
            for n in 0..EACH {
                let new = message(&format!("{n:04}"), &format!("rw{writer}"), "rwr");
                store.append(new, unannounced()).await.unwrap();
            }
        });
    }
    let mut before = 0;
    let mut looks = 0;
    while before < 3 * EACH {
        let read = all(&reader, "rwr").await;
        assert!(read.len() >= before, "{} after {before}", read.len());
        before = read.len();
        looks += 1;
        for writer in 0..3 {
            let from = format!("rw{writer}");
            let own = read.iter().filter(|m| m.from == from);
            let own: Vec<_> = own.filter_map(|m| m.id.clone()).collect();
            let expected: Vec<_> = (0..own.len()).map(|n| format!("{n:04}")).collect();
            assert_eq!(own, expected);
        }
        while let Some(done) = writers.try_join_next() {
            done.unwrap();
        }
    }
    assert!(looks > 3, "the reader came too late to see anything");
}

async fn ten_thousand_users_are_listed_by_name(cluster: &dyn Cluster) {
    const USERS: usize = 10_000;
    let store = cluster.process();
    let known = everybody(&store).await.len();
    let names: Vec<String> = (0..USERS).map(|n| format!("many{n:05}")).collect();
    for chunk in names.chunks(500) {
        let mut coming = tokio::task::JoinSet::new();
        for name in chunk {
            let (store, name) = (store.clone(), name.clone());
            coming.spawn(async move { store.connect(&session(&name), &name).await.unwrap() });
        }
        coming.join_all().await;
    }
    let users = everybody(&store).await;
    assert_eq!(users.len(), known + USERS);
    assert!(users.is_sorted_by_key(|user| user.name.to_lowercase()));
    let many: Vec<_> = users.iter().filter(|u| u.id.starts_with("many")).collect();
    assert!(many.iter().all(|user| user.connected));
    assert!(many.iter().map(|user| &user.id).eq(names.iter()));
    for chunk in names.chunks(500) {
        let mut going = tokio::task::JoinSet::new();
        for name in chunk {
            let (store, name) = (store.clone(), name.clone());
            going.spawn(async move { store.disconnect(&session(&name), &name).await.unwrap() });
        }
        assert!(going.join_all().await.iter().all(|last| *last));
    }
}

async fn users_are_found_by_the_words_of_their_names(cluster: &dyn Cluster) {
    let store = cluster.process();
    let names = [
        "Zoë Zander",
        "zoe",
        "Alan Zoch",
        "Zonk",
        "xzo",
        "zo 1",
        "zo 2",
    ];
    for (n, name) in names.into_iter().enumerate() {
        let session = Session {
            name: name.to_owned(),
            ..session(&format!("zo{n}"))
        };
        assert!(is_in(store.connect(&session, &session.id).await));
    }
    let find = async |payload| {
        let found = store.users_page(&page(payload)).await.unwrap();
        found.map(|users| users.into_iter().map(|user| user.name).collect::<Vec<_>>())
    };
    let all = ["zo 1", "zo 2", "Alan Zoch", "zoe", "Zonk", "Zoë Zander"].map(str::to_owned);
    assert_eq!(find(json!({"query": "ZO"})).await, Some(all.to_vec()));
    assert_eq!(
        find(json!({"query": " zoë za"})).await,
        Some(vec![all[5].clone()])
    );
    assert_eq!(
        find(json!({"query": "zand"})).await,
        Some(vec![all[5].clone()])
    );
    assert_eq!(find(json!({"query": "zz"})).await, Some(vec![]));
    // In pages of two, each behind the last one.
    let mut after = None;
    for two in all.chunks(2) {
        let wanted = page(json!({"query": "zo", "limit": 2, "after": after}));
        let found = store.users_page(&wanted).await.unwrap().unwrap();
        assert!(found.iter().map(|user| &user.name).eq(two));
        after = found.last().map(|user| user.id.clone());
    }
    assert_eq!(
        find(json!({"query": "zo", "after": after})).await,
        Some(vec![])
    );
    assert_eq!(find(json!({"after": "nobody-of-this-id"})).await, None);
    assert_eq!(find(json!({"query": "alan", "after": "zo1"})).await, None);
    for n in 0..names.len() {
        let session = session(&format!("zo{n}"));
        assert!(store.disconnect(&session, &session.id).await.unwrap());
    }
}

async fn each_change_of_a_user_has_the_next_number(cluster: &dyn Cluster) {
    let (a, b) = (cluster.process(), cluster.process());
    let (cat, dog) = (session("cat"), session("dog"));
    let arrived = async |store: &Arc<dyn Store>, session, socket| match store
        .connect(session, socket)
        .await
    {
        Ok(Connected::Here(change)) => change,
        other => panic!("{other:?}"),
    };
    let before = a.recent(0, 9).await.unwrap();
    let first = arrived(&a, &cat, "s1").await;
    assert_eq!(
        (first.version, first.total),
        (before.version + 1, before.total + 1)
    );
    assert!(first.news && first.user.connected);
    let second = arrived(&b, &cat, "s2").await;
    assert_eq!(
        (second.version, second.total),
        (first.version + 1, first.total)
    );
    assert!(!second.news, "a second socket is none");
    b.begin_session(&dog).await.unwrap();
    let changes = async |since, limit| {
        let Recent {
            version,
            total,
            users,
        } = a.recent(since, limit).await.unwrap();
        assert_eq!(total, before.total + 2);
        let users = users
            .into_iter()
            .map(|(version, user)| (version, user.id, user.connected));
        (version, users.collect::<Vec<_>>())
    };
    let (cat_is, dog_is) = (
        (second.version, "cat".to_owned(), true),
        ("dog".to_owned(), false),
    );
    let dog_is = (second.version + 1, dog_is.0, dog_is.1);
    let expected = vec![dog_is.clone(), cat_is];
    assert_eq!(changes(before.version, 9).await, (dog_is.0, expected));
    assert_eq!(
        changes(before.version, 1).await,
        (dog_is.0, vec![dog_is.clone()])
    );
    assert_eq!(changes(dog_is.0, 9).await, (dog_is.0, vec![]));

    // It says how it is, not how somebody thought.
    a.disconnect(&cat, "s1").await.unwrap();
    let is = b.announce("cat", "CAT", true).await.unwrap();
    assert!(is.user.connected && is.news);
    b.disconnect(&cat, "s2").await.unwrap();
    let is = a.announce("cat", "CAT", false).await.unwrap();
    assert!(!is.user.connected && !is.news);
    assert_eq!(is.version, dog_is.0 + 2);
    assert_eq!(
        changes(dog_is.0, 9).await.1,
        [(is.version, "cat".to_owned(), false)]
    );
}

async fn a_user_who_has_expired_is_not_listed_any_more(cluster: &dyn Cluster) {
    let store = cluster.process_with(Lives {
        session: Duration::from_secs(5),
        ..Lives::default()
    });
    let total = async || store.recent(0, 0).await.unwrap().total;
    let (before, gnat) = (total().await, session("gnat"));
    store.connect(&gnat, "s1").await.unwrap();
    assert_eq!(total().await, before + 1);
    store.disconnect(&gnat, "s1").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while total().await > before {
        assert!(Instant::now() < deadline, "the user stays");
        store.look_around().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(connected(&store, "gnat").await, None);
    assert!(everybody(&store).await.iter().all(|user| user.id != "gnat"));
}

async fn a_user_keeps_the_newest_messages(cluster: &dyn Cluster) {
    const KEPT: usize = 40;
    let store = cluster.process_with(Lives {
        kept: KEPT,
        ..Lives::default()
    });
    for n in 0..3 * KEPT {
        // To one of whom all are kept.
        let to = if n % 2 == 0 { "kp2" } else { "kp3" };
        let new = message(&format!("k{n}"), "kp1", to);
        store.append(new, unannounced()).await.unwrap();
    }
    let newest = format!("k{}", 3 * KEPT - 1);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let kept = all(&store, "kp1").await;
        assert_eq!(ids(&kept).last(), Some(&newest.as_str()));
        let expected = (3 * KEPT - kept.len()..3 * KEPT).map(|n| format!("k{n}"));
        assert!(ids(&kept).into_iter().eq(expected), "the newest, in order");
        assert!(kept.len() >= KEPT, "{} are kept", kept.len());
        if kept.len() <= KEPT + KEPT / 8 {
            break;
        }
        assert!(Instant::now() < deadline, "{} stay", kept.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for other in ["kp2", "kp3"] {
        let kept = all(&store, other).await.len();
        assert!((KEPT..=KEPT * 3 / 2).contains(&kept), "{other} has {kept}");
    }
}

async fn pages_walk_back_through_one_conversation(cluster: &dyn Cluster) {
    let store = cluster.process();
    for n in 0..1200 {
        let (id, peer) = (format!("p{n}"), if n % 2 == 0 { "pgb" } else { "pgc" });
        store
            .append(message(&id, "pga", peer), unannounced())
            .await
            .unwrap();
    }
    let page = async |before: Option<&str>, limit| {
        let request = PageRequest {
            with: "pgb".into(),
            before: before.map(Into::into),
            limit,
        };
        store.page("pga", &request).await.unwrap()
    };
    assert_eq!(ids(&page(None, 3).await), ["p1194", "p1196", "p1198"]);
    assert_eq!(ids(&page(Some("p1194"), 2).await), ["p1190", "p1192"]);
    assert!(
        page(Some("p1"), 2).await.is_empty(),
        "of another conversation"
    );
    assert!(page(Some("p0"), 2).await.is_empty());
    let mut walked = Vec::new();
    let mut before: Option<String> = None;
    loop {
        let next = page(before.as_deref(), 150).await;
        let Some(oldest) = next.first() else { break };
        before = oldest.id.clone();
        walked.splice(0..0, next);
    }
    let expected: Vec<String> = (0..1200).step_by(2).map(|n| format!("p{n}")).collect();
    assert_eq!(ids(&walked), expected);
}

async fn a_replay_goes_on_where_the_last_one_ended(cluster: &dyn Cluster) {
    let store = cluster.process();
    let empty = store.replay("rpl", Position::default()).await.unwrap();
    assert!(empty.messages.is_empty());
    store
        .append(message("r1", "rpl", "other"), unannounced())
        .await
        .unwrap();
    store
        .append(message("r2", "other", "rpl"), unannounced())
        .await
        .unwrap();
    let first = store.replay("rpl", empty.next).await.unwrap();
    assert_eq!(ids(&first.messages), ["r1", "r2"]);
    let none = store.replay("rpl", first.next).await.unwrap();
    assert!(none.messages.is_empty());
    store
        .append(message("r3", "other", "rpl"), unannounced())
        .await
        .unwrap();
    let second = store.replay("rpl", none.next).await.unwrap();
    assert_eq!(ids(&second.messages), ["r3"]);
    assert_eq!(ids(&all(&store, "rpl").await), ["r1", "r2", "r3"]);
}

async fn many_writers_lose_nothing_and_keep_each_ones_order(cluster: &dyn Cluster) {
    let processes: Vec<_> = (0..4).map(|_| cluster.process()).collect();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = processes[writer % processes.len()].clone();
        writers.spawn(async move {
            for n in 0..100 {
                let (id, from) = (format!("w{n:03}"), format!("wr{writer}"));
                store
                    .append(message(&id, &from, "mw"), unannounced())
                    .await
                    .unwrap();
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let read = all(&processes[0], "mw").await;
    assert_eq!(read.len(), 800);
    for writer in 0..8 {
        let from = format!("wr{writer}");
        let own: Vec<_> = read.iter().filter(|m| m.from == from).collect();
        assert_eq!(own.len(), 100);
        assert!(own.is_sorted_by_key(|m| &m.id));
    }
}

async fn a_user_is_gone_with_the_last_socket_in_the_cluster(cluster: &dyn Cluster) {
    let (a, b) = (cluster.process(), cluster.process());
    let user = session("last");
    a.connect(&user, "s1").await.unwrap();
    a.connect(&user, "s2").await.unwrap();
    b.connect(&user, "s1").await.unwrap();
    assert!(!a.disconnect(&user, "s1").await.unwrap());
    assert!(!b.disconnect(&user, "s1").await.unwrap());
    assert_eq!(connected(&b, "last").await, Some(true));
    assert!(
        !b.disconnect(&user, "s1").await.unwrap(),
        "not known any more"
    );
    assert!(a.disconnect(&user, "s2").await.unwrap());
    assert_eq!(connected(&b, "last").await, Some(false));
}

async fn who_is_back_elsewhere_is_not_shown_as_gone(cluster: &dyn Cluster) {
    let (a, b) = (cluster.process(), cluster.process());
    let user = session("back");
    a.connect(&user, "s1").await.unwrap();
    b.connect(&user, "s2").await.unwrap();
    assert!(!a.disconnect(&user, "s1").await.unwrap());
    assert_eq!(connected(&a, "back").await, Some(true));
    // Coming and going at the same moment, over and over: the last one decides.
    for turn in 0..50 {
        let (here, there) = if turn % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let (old, new) = (format!("s{}", turn + 2), format!("s{}", turn + 3));
        let (gone, come) = tokio::join!(there.disconnect(&user, &old), here.connect(&user, &new));
        gone.unwrap();
        come.unwrap();
        assert_eq!(connected(&a, "back").await, Some(true), "turn {turn}");
    }
    assert!(b.disconnect(&user, "s52").await.unwrap());
    assert_eq!(connected(&a, "back").await, Some(false));
}

async fn of_many_who_leave_at_once_one_is_the_last(cluster: &dyn Cluster) {
    let processes: Vec<_> = (0..4).map(|_| cluster.process()).collect();
    let user = session("crowd");
    for store in &processes {
        store.connect(&user, "s1").await.unwrap();
    }
    let mut leaving = tokio::task::JoinSet::new();
    for store in processes.clone() {
        let user = user.clone();
        leaving.spawn(async move { store.disconnect(&user, "s1").await.unwrap() });
    }
    let told = leaving.join_all().await;
    assert_eq!(told.iter().filter(|last| **last).count(), 1);
    assert_eq!(connected(&processes[0], "crowd").await, Some(false));
}

async fn a_dead_process_is_repaired_once(cluster: &dyn Cluster) {
    let others: Vec<_> = (0..3).map(|_| cluster.process()).collect();
    for other in &others {
        other.tend().await.unwrap();
    }
    let dead = cluster.process();
    let users: Vec<String> = (0..5).map(|n| format!("dead{n}")).collect();
    for user in &users {
        dead.connect(&session(user), &format!("{user}-1"))
            .await
            .unwrap();
        dead.connect(&session(user), &format!("{user}-2"))
            .await
            .unwrap();
    }
    drop(dead);
    let deadline = Instant::now() + PATIENCE;
    let mut gone = Vec::new();
    let mut rounds_after = 0;
    while rounds_after < 3 {
        let round = tokio::join!(others[0].tend(), others[1].tend(), others[2].tend());
        for changes in [round.0, round.1, round.2] {
            gone.extend(changes.unwrap());
        }
        rounds_after += usize::from(gone.len() >= users.len());
        assert!(Instant::now() < deadline, "not repaired: {gone:?}");
        tokio::time::sleep(others[0].tend_interval()).await;
    }
    let mut told: Vec<_> = gone
        .iter()
        .map(|change| match change {
            PresenceChange::Gone { user, .. } => user.clone(),
            PresenceChange::Back { user, .. } => format!("{user} is back?"),
        })
        .collect();
    told.sort_unstable();
    assert_eq!(told, users);
    for user in &users {
        assert_eq!(connected(&others[0], user).await, Some(false));
    }
}

async fn who_came_back_is_not_repaired_away(cluster: &dyn Cluster) {
    let (dead, other) = (cluster.process(), cluster.process());
    other.tend().await.unwrap();
    let (stays, goes) = (session("stays"), session("goes"));
    dead.connect(&stays, "s1").await.unwrap();
    dead.connect(&goes, "s2").await.unwrap();
    drop(dead);
    other.connect(&stays, "s3").await.unwrap();
    let changes = tend_until_something(&other).await;
    assert_eq!(changes, [gone("goes")]);
    assert_eq!(connected(&other, "stays").await, Some(true));
    assert_eq!(connected(&other, "goes").await, Some(false));
    assert!(other.disconnect(&stays, "s3").await.unwrap());
}

async fn who_was_left_behind_is_expected_back_for_a_while(cluster: &dyn Cluster) {
    let (leaving, other) = (cluster.process(), cluster.process());
    let (comes, stays_away, quits) = (session("comes"), session("stays-away"), session("quits"));
    for (user, socket) in [(&comes, "s1"), (&stays_away, "s2"), (&quits, "s3")] {
        leaving.connect(user, socket).await.unwrap();
    }
    assert!(leaving.disconnect(&quits, "s3").await.unwrap());
    leaving.leave_behind("s1");
    leaving.leave_behind("s2");
    // Tending goes on until the end, and must not undo it.
    assert!(leaving.tend().await.unwrap().is_empty());
    leaving.leave().await.unwrap();
    drop(leaving);
    let left = Instant::now();
    assert_eq!(connected(&other, "comes").await, Some(true));
    other.connect(&comes, "s4").await.unwrap();
    let changes = tend_until_something(&other).await;
    assert!(left.elapsed() >= GRACE, "{:?}", left.elapsed());
    assert_eq!(changes, [gone("stays-away")]);
    assert_eq!(connected(&other, "comes").await, Some(true));
    assert_eq!(connected(&other, "stays-away").await, Some(false));
    assert!(other.disconnect(&comes, "s4").await.unwrap());
}

/// In a place of its own: nobody else may live there.
pub(crate) async fn the_last_to_leave_clears_up(cluster: &dyn Cluster) {
    let (first, last) = (cluster.process(), cluster.process());
    let (one, two, cut) = (session("one"), session("two"), session("cut"));
    first.connect(&one, "s1").await.unwrap();
    last.connect(&two, "s2").await.unwrap();
    last.connect(&cut, "s3").await.unwrap();
    first.leave_behind("s1");
    last.leave_behind("s2");
    first.leave().await.unwrap();
    assert_eq!(connected(&last, "one").await, Some(true));
    last.leave().await.unwrap();
    // One that does not tend, and so repairs nothing.
    let later = cluster.process();
    for user in ["one", "two", "cut"] {
        assert_eq!(connected(&later, user).await, Some(false), "{user}");
    }
}
