//! This node among others that share a Redis: the number in its session ids.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chat_worker::chat::identity::random_id;
use chat_worker::nodes::NodeRegister;
use common::runtime_dir::RuntimeDir;
use serde::{Deserialize, Serialize};
use sticky_master::{MasterHandle, NodeId};

/// Between two tries to reach Redis.
const PAUSE: Duration = Duration::from_millis(500);

/// What the runtime directory remembers of the node, so that a master started
/// again is the same one for the workers that live on.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Memory {
    /// Random: whose the node's lease is.
    pub(crate) instance: String,
    /// The node's name when it got its number.
    name: String,
    id: Option<u16>,
}

impl Memory {
    /// What is remembered under this name, or something new. Writes nothing: the
    /// directory may be another master's.
    pub(crate) fn open(runtime_dir: &Path, name: &str) -> anyhow::Result<Memory> {
        let dir = RuntimeDir::open(runtime_dir)?;
        let text = std::fs::read(file(dir.path())).unwrap_or_default();
        if let Ok(memory) = serde_json::from_slice::<Memory>(&text)
            && memory.name == name
        {
            return Ok(memory);
        }
        Ok(Memory {
            instance: random_id()?,
            name: name.to_owned(),
            id: None,
        })
    }

    /// The number that the node had.
    pub(crate) fn number(&self) -> Option<NodeId> {
        self.id.map(NodeId)
    }

    fn write(&self, runtime_dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        // Written aside first: half a file would be a new node.
        let (aside, place) = (runtime_dir.join("node.new"), file(runtime_dir));
        std::fs::write(&aside, text)?;
        std::fs::rename(aside, place)
    }
}

fn file(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("node")
}

/// Takes the node's number and tells the master. While Redis is away the
/// remembered number does; without one it is waited for.
pub(crate) async fn take_number(
    register: &mut NodeRegister,
    mut memory: Memory,
    runtime_dir: PathBuf,
    master: MasterHandle,
) {
    remember(&memory, &runtime_dir);
    let mut said = false;
    let id = loop {
        match (register.hold().await, memory.id) {
            (Ok(place), _) => break place.id,
            (Err(error), Some(id)) => {
                tracing::warn!(%error, id, "Redis is away: the node keeps the number it had");
                break NodeId(id);
            }
            (Err(error), None) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%error, "Redis is away, and with it this node's number: waiting for it");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    tracing::debug!(%id, name = memory.name, "this node has its number");
    memory.id = Some(id.0);
    remember(&memory, &runtime_dir);
    master.set_node(id);
}

fn remember(memory: &Memory, runtime_dir: &Path) {
    if let Err(error) = memory.write(runtime_dir) {
        tracing::warn!(%error, "what this node is cannot be remembered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_remembered_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Memory::open(dir.path(), "a").unwrap();
        assert_eq!(first.id, None);
        first.id = Some(7);
        first.write(dir.path()).unwrap();
        let again = Memory::open(dir.path(), "a").unwrap();
        assert_eq!(
            (again.instance, again.id),
            (first.instance.clone(), Some(7))
        );
        let other = Memory::open(dir.path(), "b").unwrap();
        assert!(other.id.is_none() && other.instance != first.instance);
        assert_eq!(Memory::open(dir.path(), "a").unwrap().id, Some(7));
        std::fs::write(file(dir.path()), "{").unwrap();
        assert_eq!(Memory::open(dir.path(), "b").unwrap().id, None);
    }
}
