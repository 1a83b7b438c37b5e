//! Whether the database can be written: what `/healthz` shows and catching up waits for.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::store::Health;

pub(super) struct DatabaseHealth {
    file: PathBuf,
    health: watch::Sender<Health>,
    /// Something was wrong, and the log says so.
    said: AtomicBool,
}

impl DatabaseHealth {
    pub(super) fn new(file: PathBuf) -> Self {
        let health = watch::Sender::new(Health::Down("not opened yet".to_owned()));
        Self {
            file,
            health,
            said: AtomicBool::new(false),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    pub(super) fn is_up(&self) -> bool {
        *self.health.borrow() == Health::Up
    }

    pub(super) fn up(&self) {
        self.report(Health::Up);
    }

    pub(super) fn down(&self, why: &str) {
        self.report(Health::ReadOnly(why.to_owned()));
    }

    /// Says each change in the log once.
    fn report(&self, new: Health) {
        self.health.send_if_modified(|old| {
            if *old == new {
                return false;
            }
            let database = self.file.display();
            match &new {
                Health::Up if self.said.swap(false, Ordering::Relaxed) => {
                    tracing::info!(%database, "the database can be written again");
                }
                Health::Up => tracing::debug!(%database, "the database is open"),
                Health::ReadOnly(why) | Health::Down(why) => {
                    self.said.store(true, Ordering::Relaxed);
                    tracing::error!(
                        %database, why,
                        "the database cannot be written; sending is refused until it can"
                    );
                }
            }
            *old = new;
            true
        });
    }
}
