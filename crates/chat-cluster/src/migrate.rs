//! `chat-cluster migrate`: shows how far the copying is, and what was done.

use std::io::Write;
use std::time::Instant;

use chat_worker::migrate::{Migration, Progress, migrate};
use chat_worker::parse_redis_url;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{MigrateOptions, Options};
use crate::signals::block_on;

/// Runs to the end. A bar on standard error, if that is a terminal; one line on standard output.
pub(crate) fn run(what: &MigrateOptions, options: &Options) -> anyhow::Result<()> {
    let migration = Migration {
        from: what.from.clone(),
        to: parse_redis_url(&what.to)?,
        merge: what.merge,
        session_ttl: options.session_ttl,
        message_ttl: options.message_ttl,
    };
    let began = Instant::now();
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{bar:40} {percent:>3}%  {msg}  {elapsed}",
    )?);
    let migrated = block_on(async {
        let migrated = migrate(&migration, |progress| show(&bar, progress)).await;
        Ok(migrated?)
    });
    bar.finish_and_clear();
    let Progress {
        sessions,
        users,
        entries,
        present,
    } = migrated?;
    let mut out = std::io::stdout().lock();
    // Whoever closed standard output does not want to know.
    let _ = writeln!(
        out,
        "copied {} sessions, and {entries} entries of the message lists of {} users, to {} in {:.1} s; \
         {present} were there already",
        sessions.0,
        users.0,
        migration.to,
        began.elapsed().as_secs_f64(),
    );
    Ok(())
}

fn show(bar: &ProgressBar, progress: &Progress) {
    // A session is one key; a user's list may be long, so the message tells how many entries.
    bar.set_length(progress.sessions.1 + progress.users.1);
    bar.set_position(progress.sessions.0 + progress.users.0);
    bar.set_message(format!(
        "{} of {} users, {} entries",
        progress.users.0, progress.users.1, progress.entries
    ));
}
