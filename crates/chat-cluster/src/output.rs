//! What commands print.

use std::io::Write as _;

use anyhow::Context;

/// Prints all of it, at once.
pub(crate) fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text).and_then(|()| out.flush());
    written.context("cannot print")
}
