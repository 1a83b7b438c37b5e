//! Measurements that are kept in a file, as JSON.

use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

/// Writes them, in place of what was there.
pub(crate) fn keep(results: &impl Serialize, path: &Path) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let text = serde_json::to_string(results)?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
