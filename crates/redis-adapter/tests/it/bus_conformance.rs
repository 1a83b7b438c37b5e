//! What every bus has to do, whatever carries it: to be run over each implementation.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use redis_adapter::{Bus, BusError, BusEvent, EventReceiver};
use tokio::time::Instant;

use crate::soon;

/// Makes buses that belong together: each stands for a process.
pub(crate) trait Buses {
    fn process(&self) -> (Arc<dyn Bus>, EventReceiver);
}

pub(crate) fn channels(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub(crate) fn publish(
    bus: &dyn Bus,
    channel: &str,
    text: &str,
) -> impl Future<Output = Result<(), BusError>> + use<> {
    bus.publish(channel.to_owned(), Bytes::copy_from_slice(text.as_bytes()))
}

pub(crate) fn message(channel: &str, text: &str) -> BusEvent {
    BusEvent::Message {
        channel: channel.to_owned(),
        payload: Bytes::copy_from_slice(text.as_bytes()),
    }
}

/// That the next event is a gap; since when.
pub(crate) async fn next_gap(events: &mut EventReceiver) -> Instant {
    match soon(events.recv()).await {
        Some(BusEvent::Gap { since }) => since,
        other => panic!("no gap: {other:?}"),
    }
}

async fn next(events: &mut EventReceiver) -> BusEvent {
    soon(events.recv()).await.expect("the bus lives")
}

pub(crate) async fn run(buses: &dyn Buses) {
    messages_arrive_in_the_order_of_the_calls(buses).await;
    run_each_channel_for_itself(buses).await;
}

/// The same without what is about the order of messages on several channels.
pub(crate) async fn run_each_channel_for_itself(buses: &dyn Buses) {
    what_is_not_subscribed_is_not_heard(buses).await;
    once_it_is_confirmed_nothing_is_missed(buses).await;
    any_name_and_any_bytes_arrive_as_they_were(buses).await;
    thousands_of_channels_are_told_apart(buses).await;
    many_writers_lose_nothing_and_keep_each_ones_order(buses).await;
    a_subscription_is_a_set_and_one_end_ends_it(buses).await;
    subscribers_are_counted(buses).await;
    who_comes_and_goes_in_order_is_no_gap_for_others(buses).await;
    a_closed_bus_says_so_and_its_events_end(buses).await;
}

async fn up(bus: &dyn Bus) {
    soon(bus.watch_up().wait_for(|up| *up)).await.unwrap();
}

async fn messages_arrive_in_the_order_of_the_calls(buses: &dyn Buses) {
    let ((bus, mut events), (other, mut heard)) = (buses.process(), buses.process());
    for bus in [&bus, &other] {
        soon(bus.subscribe(channels(&["a", "b"]))).await.unwrap();
    }
    // Queued at the call: the futures are awaited in the opposite order.
    let confirmations: Vec<_> = (0..2000)
        .map(|number| publish(&*bus, ["a", "b"][number % 2], &number.to_string()))
        .collect();
    for confirmation in confirmations.into_iter().rev() {
        soon(confirmation).await.unwrap();
    }
    for number in 0..2000 {
        let expected = message(["a", "b"][number % 2], &number.to_string());
        assert_eq!(next(&mut events).await, expected, "the sender hears it too");
        assert_eq!(next(&mut heard).await, expected);
    }
}

/// Waits until nobody is subscribed to any of `channels` but the last: an unsubscription takes effect
/// soon, and nobody is told when. Then only what is on the last one is heard.
async fn until_only_the_last_is_heard(
    bus: &dyn Bus,
    channels: &[String],
    heard: &mut EventReceiver,
) {
    let (last, left) = channels.split_last().unwrap();
    soon(async {
        while bus.subscribers(left.to_vec()).await.unwrap() != vec![0; left.len()] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for channel in channels {
        soon(publish(bus, channel, channel)).await.unwrap();
    }
    assert_eq!(next(heard).await, message(last, last));
}

async fn what_is_not_subscribed_is_not_heard(buses: &dyn Buses) {
    let ((bus, _events), (other, mut heard)) = (buses.process(), buses.process());
    soon(other.subscribe(channels(&["left", "kept"])))
        .await
        .unwrap();
    soon(publish(&*bus, "never", "x")).await.unwrap();
    soon(publish(&*bus, "left", "heard")).await.unwrap();
    assert_eq!(next(&mut heard).await, message("left", "heard"));
    other.unsubscribe(channels(&["left", "never"]));
    until_only_the_last_is_heard(&*bus, &channels(&["left", "never", "kept"]), &mut heard).await;
}

async fn once_it_is_confirmed_nothing_is_missed(buses: &dyn Buses) {
    let ((bus, _events), (other, mut heard)) = (buses.process(), buses.process());
    let publisher = {
        let bus = bus.clone();
        async move |channel: &str| {
            for number in 0..5 {
                soon(publish(&*bus, channel, &number.to_string()))
                    .await
                    .unwrap();
            }
        }
    };
    for round in 0..100 {
        let channel = format!("round {round}");
        soon(other.subscribe(vec![channel.clone()])).await.unwrap();
        publisher(&channel).await;
        for number in 0..5 {
            assert_eq!(
                next(&mut heard).await,
                message(&channel, &number.to_string())
            );
        }
        other.unsubscribe(vec![channel]);
    }
}

async fn any_name_and_any_bytes_arrive_as_they_were(buses: &dyn Buses) {
    let ((bus, _events), (other, mut heard)) = (buses.process(), buses.process());
    let names = [
        "socket.io#/#\u{416}\u{443}\u{43a} \u{1f980}#",
        "new\nline \0",
        &"x".repeat(10_000),
    ];
    soon(other.subscribe(channels(&names))).await.unwrap();
    let payloads = [
        Bytes::new(),
        Bytes::from_static(b"\0\xff\r\n$-1"),
        (0..1_000_000_u32).map(|n| n as u8).collect(),
    ];
    for name in names {
        for payload in &payloads {
            soon(bus.publish(name.to_owned(), payload.clone()))
                .await
                .unwrap();
        }
    }
    // Each channel's in order.
    let mut heard_on = HashMap::new();
    for _ in 0..names.len() * payloads.len() {
        let BusEvent::Message { channel, payload } = next(&mut heard).await else {
            panic!("nothing but messages was expected");
        };
        heard_on
            .entry(channel)
            .or_insert_with(Vec::new)
            .push(payload);
    }
    for name in names {
        assert!(heard_on[name] == payloads, "{name:.20?}");
    }
}

async fn thousands_of_channels_are_told_apart(buses: &dyn Buses) {
    let ((bus, _events), (other, mut heard)) = (buses.process(), buses.process());
    let many: Vec<String> = (0..3000).map(|number| format!("c{number}")).collect();
    let parts = many.chunks(7).map(|some| other.subscribe(some.to_vec()));
    soon(futures_util::future::try_join_all(parts))
        .await
        .unwrap();
    for channel in &many {
        soon(publish(&*bus, channel, channel)).await.unwrap();
    }
    let mut missing: HashSet<String> = many.iter().cloned().collect();
    while !missing.is_empty() {
        let BusEvent::Message { channel, payload } = next(&mut heard).await else {
            panic!("nothing but messages was expected");
        };
        assert_eq!(channel, std::str::from_utf8(&payload).unwrap());
        assert!(missing.remove(&channel), "{channel} is heard twice");
    }
    other.unsubscribe(many[..many.len() - 1].to_vec());
    until_only_the_last_is_heard(&*bus, &many, &mut heard).await;
}

async fn many_writers_lose_nothing_and_keep_each_ones_order(buses: &dyn Buses) {
    const WRITERS: usize = 6;
    const EACH: usize = 1000;
    let mut processes: Vec<_> = (0..WRITERS).map(|_| buses.process()).collect();
    for (bus, _) in &processes {
        soon(bus.subscribe(channels(&["all"]))).await.unwrap();
    }
    let mut writing = tokio::task::JoinSet::new();
    for (writer, (bus, _)) in processes.iter().enumerate() {
        let bus = bus.clone();
        writing.spawn(async move {
            for number in 0..EACH {
                soon(publish(&*bus, "all", &format!("{writer} {number}")))
                    .await
                    .unwrap();
            }
        });
    }
    while let Some(done) = writing.join_next().await {
        done.unwrap();
    }
    for (_, events) in &mut processes {
        let mut next_of = [0; WRITERS];
        for _ in 0..WRITERS * EACH {
            let BusEvent::Message { payload, .. } = next(events).await else {
                panic!("nothing but messages was expected");
            };
            let text = std::str::from_utf8(&payload).unwrap();
            let (writer, number) = text.split_once(' ').unwrap();
            let expected = &mut next_of[writer.parse::<usize>().unwrap()];
            assert_eq!(number, expected.to_string(), "of writer {writer}");
            *expected += 1;
        }
    }
}

async fn a_subscription_is_a_set_and_one_end_ends_it(buses: &dyn Buses) {
    let ((bus, _events), (other, mut heard)) = (buses.process(), buses.process());
    for _ in 0..3 {
        soon(other.subscribe(channels(&["a", "a", "b"])))
            .await
            .unwrap();
    }
    soon(publish(&*bus, "a", "once")).await.unwrap();
    assert_eq!(next(&mut heard).await, message("a", "once"));
    soon(publish(&*bus, "b", "between")).await.unwrap();
    assert_eq!(next(&mut heard).await, message("b", "between"));
    other.unsubscribe(channels(&["a"]));
    until_only_the_last_is_heard(&*bus, &channels(&["a", "b"]), &mut heard).await;
    // And begins again.
    soon(other.subscribe(channels(&["a"]))).await.unwrap();
    soon(publish(&*bus, "a", "again")).await.unwrap();
    assert_eq!(next(&mut heard).await, message("a", "again"));
}

async fn who_comes_and_goes_in_order_is_no_gap_for_others(buses: &dyn Buses) {
    let (stays, mut heard) = buses.process();
    soon(stays.subscribe(channels(&["a"]))).await.unwrap();
    up(&*stays).await;
    for round in 0..10 {
        let (guest, mut events) = buses.process();
        soon(guest.subscribe(channels(&["a"]))).await.unwrap();
        up(&*guest).await;
        let (hello, bye) = (format!("hello {round}"), format!("bye {round}"));
        soon(publish(&*stays, "a", &hello)).await.unwrap();
        assert_eq!(next(&mut events).await, message("a", &hello));
        // The last words of one who leaves are heard.
        let said = publish(&*guest, "a", &bye);
        soon(guest.close()).await;
        drop((guest, said));
        assert_eq!(next(&mut heard).await, message("a", &hello));
        assert_eq!(next(&mut heard).await, message("a", &bye));
    }
    soon(publish(&*stays, "a", "end")).await.unwrap();
    assert_eq!(next(&mut heard).await, message("a", "end"));
}

async fn subscribers_are_counted(buses: &dyn Buses) {
    let ((bus, _events), (other, mut heard)) = (buses.process(), buses.process());
    soon(bus.subscribe(channels(&["counted", "also"])))
        .await
        .unwrap();
    soon(other.subscribe(channels(&["counted", "end"])))
        .await
        .unwrap();
    // A bus may know of another's subscription a moment after that one does.
    soon(publish(&*other, "end", "")).await.unwrap();
    assert_eq!(next(&mut heard).await, message("end", ""));
    let asked = ["counted", "also", "end", "nobody"];
    let count = async || soon(bus.subscribers(channels(&asked))).await.unwrap();
    assert_eq!(count().await, [2, 1, 1, 0]);
    assert!(soon(bus.subscribers(Vec::new())).await.unwrap().is_empty());
    drop(other);
    // An unsubscription, like an end, takes effect soon.
    soon(async {
        while count().await != [1, 1, 0, 0] {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn a_closed_bus_says_so_and_its_events_end(buses: &dyn Buses) {
    let (bus, mut events) = buses.process();
    soon(bus.subscribe(channels(&["a"]))).await.unwrap();
    soon(publish(&*bus, "a", "last")).await.unwrap();
    // What has not arrived when the bus is dropped does not any more.
    assert_eq!(next(&mut events).await, message("a", "last"));
    soon(bus.close()).await;
    drop(bus);
    assert_eq!(soon(events.recv()).await, None);
}
