//! Where the other nodes of the cluster are.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::worker_id::NodeId;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// The nodes that live, with the addresses at which their workers are called.
pub type NodeAddresses = HashMap<NodeId, SocketAddr>;

/// Between two looks: made-up session ids must not cost a look each. A request
/// waits for the next one.
const PAUSE: Duration = Duration::from_millis(250);

/// A request waits that long for who looks.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was said last of the other nodes.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) nodes: NodeAddresses,
    /// When; not yet at first.
    pub(crate) at: Option<Instant>,
}

/// Sees them change, and asks for a look when one is missing.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    pub(crate) known: watch::Receiver<Known>,
    pub(crate) wanted: Arc<Notify>,
}

impl Nodes {
    /// Where to call a node that lives.
    fn address(&self, node: NodeId) -> Option<SocketAddr> {
        self.known.borrow().nodes.get(&node).copied()
    }

    /// The same, also of a node that has just begun to live.
    pub(crate) async fn find(&self, node: NodeId) -> Option<SocketAddr> {
        if let Some(address) = self.address(node) {
            return Some(address);
        }
        let before = self.known.borrow().at;
        let mut known = self.known.clone();
        let looked = async {
            if let Some(at) = before {
                sleep_until(at + PAUSE).await;
            }
            self.wanted.notify_one();
            // Another one's wish may have been granted meanwhile.
            let _ = known.wait_for(|known| known.at != before).await;
        };
        let _ = timeout(PATIENCE, looked).await;
        self.address(node)
    }

    /// Resolves when the node does not live there any more.
    pub(crate) async fn gone(&self, node: NodeId, address: SocketAddr) {
        let mut known = self.known.clone();
        let moved = known.wait_for(|known| known.nodes.get(&node) != Some(&address));
        if moved.await.is_err() {
            // Nobody knows more than what was said last.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const NODE: NodeId = NodeId(3);

    fn nodes() -> (watch::Sender<Known>, Nodes) {
        let (sender, known) = watch::channel(Known::default());
        let wanted = Arc::default();
        (sender, Nodes { known, wanted })
    }

    fn at(last: u8) -> SocketAddr {
        ([10, 0, 0, last], 7000).into()
    }

    fn say(sender: &watch::Sender<Known>, address: Option<SocketAddr>) {
        sender.send_replace(Known {
            nodes: address.map(|address| (NODE, address)).into_iter().collect(),
            at: Some(Instant::now()),
        });
    }

    #[tokio::test]
    async fn a_node_is_gone_when_it_is_not_listed_or_has_moved() {
        let (sender, nodes) = nodes();
        say(&sender, Some(at(3)));
        assert_eq!(nodes.address(NODE), Some(at(3)));
        assert!(nodes.gone(NODE, at(3)).now_or_never().is_none());
        say(&sender, Some(at(4)));
        assert!(nodes.gone(NODE, at(3)).now_or_never().is_some());
        say(&sender, None);
        assert!(nodes.gone(NODE, at(4)).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_missing_is_looked_for_but_not_all_the_time() {
        let (sender, nodes) = nodes();
        let looks = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let (wanted, counted) = (nodes.wanted.clone(), looks.clone());
        let looking = tokio::spawn(async move {
            loop {
                wanted.notified().await;
                let look = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                // It begins to live before the second look.
                say(&sender, (look > 0).then(|| at(3)));
            }
        });
        let found = || async { nodes.find(NODE).await };
        let first = tokio::join!(found(), found(), found());
        assert_eq!(first, (None, None, None));
        let begun = Instant::now();
        let second = tokio::join!(found(), found());
        assert_eq!(second, (Some(at(3)), Some(at(3))));
        assert_eq!(begun.elapsed(), PAUSE);
        // One look was for all who waited, or a late wish made it one more.
        assert!((2..=3).contains(&looks.load(std::sync::atomic::Ordering::SeqCst)));
        // Nobody looks any more.
        looking.abort();
        let begun = Instant::now();
        assert_eq!(nodes.find(NodeId(4)).await, None);
        assert!(begun.elapsed() <= PATIENCE);
    }
}
