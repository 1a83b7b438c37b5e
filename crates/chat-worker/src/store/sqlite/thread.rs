//! Threads that log like the one that starts them.

use std::io;

/// Starts a named thread inside the present tracing span.
pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let span = tracing::Span::current();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || span.in_scope(run))
        .map(|_| ())
}
