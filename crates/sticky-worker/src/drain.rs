//! Leaving: every client is asked to come back elsewhere, and the worker waits
//! until they are gone or its time is over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::departure::Departure;
use crate::serve::FIRST_REQUEST_GRACE;
use crate::sessions::Sessions;
use crate::stream_registry::StreamRegistry;

/// Of the time after the last wish, kept for the application to see the ends of
/// the streams that are cut.
const LAST_PART: u32 = 8;

/// Between two looks at who is to be asked next.
const TICK: Duration = Duration::from_millis(20);

/// Between two looks at who came since everybody was asked.
const LATE_TICK: Duration = Duration::from_millis(250);

/// Who came just now is logging in, and would count the wish as an attempt that
/// failed: it is asked when it has been here that long.
pub(crate) const SETTLING: Duration = Duration::from_secs(2);

/// The most of the time after the spread that may be spent on that.
const SETTLING_PART: u32 = 4;

/// How long leaving may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The clients that are there are asked one after the other in that time.
    /// Zero: all at once, and there is no other worker that they could go to.
    pub(crate) spread: Duration,
    /// The end, however many are left.
    pub(crate) within: Duration,
}

impl Bounds {
    pub(crate) fn at_once(within: Duration) -> Bounds {
        Bounds {
            spread: Duration::ZERO,
            within,
        }
    }

    /// How long a client has to have been here before it is asked.
    fn settling(&self) -> Duration {
        match self.spread {
            Duration::ZERO => Duration::ZERO,
            spread => SETTLING.min(self.within.saturating_sub(spread) / SETTLING_PART),
        }
    }
}

/// What leaving takes.
pub(crate) struct Drain {
    pub(crate) departure: Departure,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) streams: Arc<StreamRegistry>,
}

impl Drain {
    /// Resolves when nobody is left, or at the end of the bounds. Until everybody
    /// was asked, requests are served as ever. Then idle connections close, and
    /// what is not gone shortly before the end is cut. Can be run again after it
    /// was dropped, with other bounds.
    pub(crate) async fn run(&self, bounds: Bounds) {
        let end = Instant::now() + bounds.within;
        let settling = bounds.settling();
        self.departure.begin(bounds.spread.is_zero());
        self.ask_over(bounds.spread, settling).await;
        self.departure.close();
        let gone = async {
            tokio::select! {
                () = self.everybody_gone() => {}
                () = self.ask_the_rest(settling) => {}
            }
        };
        let last = bounds.within.saturating_sub(bounds.spread) / LAST_PART;
        if timeout_at(end - last, gone).await.is_ok() {
            tracing::info!("everybody is gone");
            return;
        }
        tracing::warn!("not everybody left in time; the rest is cut");
        self.streams.cut_all();
        let _ = timeout_at(end, self.everybody_gone()).await;
    }

    /// Asks those who are here now, spread evenly over that time, who came last at
    /// the end: nobody before it has settled. It may end earlier, when nobody is
    /// here any more.
    async fn ask_over(&self, spread: Duration, settling: Duration) {
        let mut everybody = self.sessions.everybody();
        let begin = Instant::now();
        everybody.sort_by_key(|client| client.settles_at(settling).max(begin));
        let mut clients = VecDeque::from(everybody);
        let end = begin + spread;
        let mut next = begin;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < end {
            ticks.tick().await;
            while let Some(client) = clients.front() {
                next = next.max(client.settles_at(settling));
                if next > Instant::now() || next >= end {
                    break;
                }
                self.sessions.move_elsewhere(client);
                next += (end - next) / clients.len() as u32;
                clients.pop_front();
            }
            // A connection that was handed over just before still has its time to
            // say what it wants.
            let early = begin.elapsed() < FIRST_REQUEST_GRACE;
            if !early && self.sessions.are_none() {
                return;
            }
        }
    }

    /// Who came since, who was not asked, and what is relayed to other workers. Goes
    /// on for ever: more of them may come.
    async fn ask_the_rest(&self, settling: Duration) {
        let mut ticks = interval(LATE_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for client in self.sessions.everybody() {
                if client.settles_at(settling) <= Instant::now() {
                    self.sessions.move_elsewhere(&client);
                }
            }
            for stream in self.streams.websockets() {
                if !stream.is_a_clients() {
                    stream.ask_to_return();
                }
            }
        }
    }

    async fn everybody_gone(&self) {
        loop {
            self.sessions.empty().await;
            self.streams.empty().await;
            // A stream that was waited for may have opened a session late, and
            // streams may come while sessions are waited for.
            if self.sessions.empty().now_or_never().is_some() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::board::Board;
    use crate::client_handle::Client;
    use crate::secret::Secret;
    use crate::sessions::{CloseEngineSession, Limits};
    use crate::stream_state::Origin;

    /// Closes when it is let.
    struct Gated(Arc<Notify>);

    impl CloseEngineSession for Gated {
        fn close(&self, _: &str) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            let gate = self.0.clone();
            Box::pin(async move { gate.notified().await })
        }
    }

    struct Fixture {
        gate: Arc<Notify>,
        sessions: Arc<Sessions>,
        streams: Arc<StreamRegistry>,
        departure: Departure,
    }

    impl Fixture {
        fn new() -> Fixture {
            let board = Arc::new(Board::create().unwrap().0);
            let limits = Limits {
                unfinished: 99,
                lifetime: Duration::from_secs(45),
            };
            let gate = Arc::new(Notify::new());
            Fixture {
                sessions: Sessions::new(limits, board.clone(), Box::new(Gated(gate.clone()))),
                streams: Arc::new(StreamRegistry::new(board)),
                departure: Departure::default(),
                gate,
            }
        }

        fn open(&self) -> Arc<Client> {
            let client = Arc::new(Client::polling(Secret::random()));
            self.sessions.opened(&client, "x");
            client
        }

        fn drain(&self, bounds: Bounds) -> JoinHandle<()> {
            let drain = Drain {
                departure: self.departure.clone(),
                sessions: self.sessions.clone(),
                streams: self.streams.clone(),
            };
            tokio::spawn(async move { drain.run(bounds).await })
        }

        /// So many clients close.
        async fn let_go(&self, clients: usize) {
            for _ in 0..clients {
                self.gate.notify_one();
                tokio::task::yield_now().await;
            }
        }
    }

    fn bounds(spread: u64, within: u64) -> Bounds {
        Bounds {
            spread: Duration::from_secs(spread),
            within: Duration::from_secs(within),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_comes_while_sessions_are_waited_for_is_waited_for() {
        let fixture = Fixture::new();
        fixture.open();
        let drain = fixture.drain(Bounds::at_once(Duration::from_secs(80)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let stream = fixture.streams.enter(Origin::plain_relay());
        fixture.gate.notify_one();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!drain.is_finished());
        drop(stream);
        tokio::time::timeout(Duration::from_secs(1), drain)
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn clients_are_asked_one_after_the_other_and_who_comes_meanwhile_is_asked_last() {
        let fixture = Fixture::new();
        let departure = &fixture.departure;
        let clients: Vec<_> = (0..10).map(|_| fixture.open()).collect();
        tokio::time::sleep(SETTLING).await;
        let asked = || clients.iter().filter(|client| client.was_asked()).count();
        let drain = fixture.drain(bounds(10, 16));
        tokio::time::sleep(Duration::from_millis(500)).await;
        for count in 1..=10 {
            assert_eq!(asked(), count);
            assert!(departure.is_draining() && departure.closing().now_or_never().is_none());
            if count == 5 {
                fixture.open();
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(departure.closing().now_or_never().is_some() && !departure.refuses_handshakes());
        fixture.let_go(11).await;
        drain.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_came_just_now_is_let_settle_before_and_after_everybody_was_asked() {
        let fixture = Fixture::new();
        let old = fixture.open();
        tokio::time::sleep(SETTLING).await;
        let new = fixture.open();
        let drain = fixture.drain(bounds(1, 41));
        tokio::time::sleep(SETTLING - Duration::from_millis(100)).await;
        assert!(old.was_asked() && !new.was_asked());
        let late = fixture.open();
        tokio::time::sleep(Duration::from_millis(100) + LATE_TICK).await;
        assert!(new.was_asked() && !late.was_asked());
        tokio::time::sleep(SETTLING).await;
        assert!(late.was_asked());
        fixture.let_go(3).await;
        drain.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_has_settled_they_are_spread_over_the_time_that_is_left() {
        let fixture = Fixture::new();
        let clients: Vec<_> = (0..10).map(|_| fixture.open()).collect();
        let asked = || clients.iter().filter(|client| client.was_asked()).count();
        // They settle after 2 s: one each second from then on.
        let drain = fixture.drain(bounds(12, 60));
        tokio::time::sleep(Duration::from_millis(1_900)).await;
        assert_eq!(asked(), 0);
        tokio::time::sleep(Duration::from_millis(600)).await;
        for count in 1..=10 {
            assert_eq!(asked(), count);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        fixture.let_go(10).await;
        drain.await.unwrap();
    }

    #[test]
    fn settling_takes_no_more_than_its_part_and_nothing_when_there_is_no_other_worker() {
        assert_eq!(bounds(10, 16).settling(), Duration::from_millis(1500));
        assert_eq!(bounds(10, 60).settling(), SETTLING);
        assert_eq!(bounds(10, 5).settling(), Duration::ZERO);
        assert_eq!(bounds(0, 80).settling(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn without_clients_it_takes_a_moment_and_not_all_the_time() {
        let begin = Instant::now();
        Fixture::new().drain(bounds(10, 16)).await.unwrap();
        assert!(begin.elapsed() < FIRST_REQUEST_GRACE * 2);
    }
}
