//! `chat-cluster migrate`: shows how far the copying is, and what was done.

use std::io::Write;
use std::time::Instant;

use chat_worker::migrate::{Migration, Progress, migrate};
use chat_worker::parse_redis_url;
use indicatif::{ProgressBar, ProgressStyle};

use crate::commands::MigrateOptions;
use crate::signals::block_on;

/// Runs to the end. A bar on standard error, if that is a terminal; one line on standard output.
pub(crate) fn run(what: &MigrateOptions) -> anyhow::Result<()> {
    let migration = Migration {
        from: what.from.clone(),
        to: parse_redis_url(&what.to)?,
        merge: what.merge,
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
    let done = migrated?;
    let mut out = std::io::stdout().lock();
    // Whoever closed standard output does not want to know.
    let _ = writeln!(
        out,
        "copied {} sessions and {} entries of the message lists of {} users to {} in {:.1} s; \
         {} were there already, {} sessions had expired",
        done.sessions_added,
        done.entries_added,
        done.users.done,
        migration.to,
        began.elapsed().as_secs_f64(),
        done.present,
        done.expired,
    );
    Ok(())
}

fn show(bar: &ProgressBar, progress: &Progress) {
    let Progress {
        sessions, users, ..
    } = progress;
    // A session is one key; a user's list may be long, so the message tells how many entries.
    bar.set_length(sessions.of + users.of);
    bar.set_position(sessions.done + users.done);
    bar.set_message(format!(
        "{} of {} users, {} entries added",
        users.done, users.of, progress.entries_added
    ));
}
