//! Where the other nodes of the cluster are.

use std::collections::HashMap;
use std::net::SocketAddr;

use common::worker_id::NodeId;
use tokio::sync::watch;

/// The nodes that live, with the addresses at which their workers are called.
pub type NodeAddresses = HashMap<NodeId, SocketAddr>;

/// Sees them change.
#[derive(Clone, Debug)]
pub(crate) struct Nodes(pub(crate) watch::Receiver<NodeAddresses>);

impl Nodes {
    /// Where to call a node that lives.
    pub(crate) fn address(&self, node: NodeId) -> Option<SocketAddr> {
        self.0.borrow().get(&node).copied()
    }

    /// Resolves when the node does not live there any more.
    pub(crate) async fn gone(&self, node: NodeId, address: SocketAddr) {
        let mut nodes = self.0.clone();
        let moved = nodes.wait_for(|nodes| nodes.get(&node) != Some(&address));
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

    #[test]
    fn a_node_is_gone_when_it_is_not_listed_or_has_moved() {
        let (sender, receiver) = watch::channel(NodeAddresses::new());
        let nodes = Nodes(receiver);
        let (node, address) = (NodeId(3), SocketAddr::from(([10, 0, 0, 3], 7000)));
        assert_eq!(nodes.address(node), None);
        sender.send_replace(HashMap::from([(node, address)]));
        assert_eq!(nodes.address(node), Some(address));
        assert!(nodes.gone(node, address).now_or_never().is_none());
        let elsewhere = SocketAddr::from(([10, 0, 0, 4], 7000));
        sender.send_replace(HashMap::from([(node, elsewhere)]));
        assert!(nodes.gone(node, address).now_or_never().is_some());
        sender.send_replace(HashMap::new());
        assert!(nodes.gone(node, elsewhere).now_or_never().is_some());
    }
}
