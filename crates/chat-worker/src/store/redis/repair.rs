//! Repair: what a process left connected when it died, put right by one of the others.

use futures_util::{TryStreamExt, stream};
use redis::RedisResult;

use super::RedisStore;
use super::presence::{DEAD, INSTANCES, LEAVING, lease_key, sockets_key};
use super::process_mark::is_dead;
use super::sessions::millis;
use crate::store::{PresenceChange, StoreError};

/// Sockets repaired per turn; the claim is renewed at each.
const BATCH: usize = 200;

/// Other processes that each looks at in one round: all of a small cluster. In a large one each is looked
/// at as often on average, by somebody; that it is by nobody happens once in 10^13 rounds.
const LOOKS: usize = 32;

/// Of those, at the same time.
const AT_ONCE: usize = 16;

impl RedisStore {
    pub(super) async fn repair_others(&self) -> Result<(), StoreError> {
        let own = self.own_instance().await;
        let mut others = self.bounded(self.leases(Some(LOOKS))).await?;
        others.retain(|(id, _)| *id != own);
        for (id, lease) in others {
            match lease {
                None => self.repair_unless_claimed(&id, &own).await?,
                // Its clients are on their way to other processes.
                Some(mark) if is_dead(&mark) => {
                    self.bounded(self.end_after_grace(&id, DEAD)).await?
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// When no process lives any more: removes what the last ones, this one too, have left.
    pub(super) async fn repair_if_last(&self) -> Result<(), StoreError> {
        let leases = self.bounded(self.leases(None)).await?;
        let has_ended = |lease: &Option<String>| match lease.as_deref() {
            None | Some(LEAVING | DEAD) => true,
            Some(mark) => is_dead(mark),
        };
        if !leases.iter().all(|(_, lease)| has_ended(lease)) {
            return Ok(());
        }
        let own = self.own_instance().await;
        for (id, _) in leases {
            self.repair_unless_claimed(&id, &own).await?;
        }
        Ok(())
    }

    /// Removes what a dead process left, unless another one is at it.
    async fn repair_unless_claimed(&self, dead: &str, own: &str) -> Result<(), StoreError> {
        match self.bounded(self.claim(dead, own)).await? {
            true => self.repair(dead).await,
            false => Ok(()),
        }
    }

    /// Processes that may have left something, all or so many of them by chance, each with its lease
    /// unless that has ended.
    async fn leases(&self, most: Option<usize>) -> RedisResult<Vec<(String, Option<String>)>> {
        let mut connection = self.link.connection().await;
        let mut list = redis::cmd(match most {
            None => "SMEMBERS",
            Some(_) => "SRANDMEMBER",
        });
        // Nothing is no argument.
        list.arg(INSTANCES).arg(most);
        let listed: Vec<String> = list.query_async(&mut connection).await?;
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for id in &listed {
            pipe.cmd("GET").arg(lease_key(id));
        }
        let leases: Vec<Option<String>> = pipe.query_async(&mut connection).await?;
        Ok(listed.into_iter().zip(leases).collect())
    }

    /// Whether the repair is ours. The claim ends by itself if we die over it.
    async fn claim(&self, dead: &str, own: &str) -> RedisResult<bool> {
        let mut connection = self.link.connection().await;
        let claimed: Option<String> = redis::cmd("SET")
            .arg(claim_key(dead))
            .arg(own)
            .arg("NX")
            .arg("PX")
            .arg(millis(self.config.lease))
            .query_async(&mut connection)
            .await?;
        Ok(claimed.is_some())
    }

    async fn repair(&self, dead: &str) -> Result<(), StoreError> {
        let mut sockets = 0;
        loop {
            let batch = self.bounded(self.left_by(dead)).await?;
            if batch.is_empty() {
                break;
            }
            sockets += batch.len();
            // Bounded one by one: a batch of many users takes longer than one operation.
            let repairs = batch
                .iter()
                .map(|(socket, owner)| Ok(self.bounded(self.repair_socket(dead, socket, owner))));
            stream::iter(repairs)
                .try_for_each_concurrent(AT_ONCE, |repair| repair)
                .await?;
            self.bounded(self.renew_claim(dead)).await?;
        }
        self.bounded(self.forget(dead)).await?;
        if sockets > 0 {
            tracing::info!(
                instance = dead,
                sockets,
                "removed sockets that were left behind"
            );
        }
        Ok(())
    }

    async fn left_by(&self, dead: &str) -> RedisResult<Vec<(String, String)>> {
        let mut connection = self.link.connection().await;
        let mut cursor = 0u64;
        // A step may find nothing in a hash that was large and is not empty yet.
        let mut batch = loop {
            let (next, batch): (u64, Vec<(String, String)>) = redis::cmd("HSCAN")
                .arg(sockets_key(dead))
                .arg(cursor)
                .arg("COUNT")
                .arg(BATCH)
                .query_async(&mut connection)
                .await?;
            if next == 0 || !batch.is_empty() {
                break batch;
            }
            cursor = next;
        };
        // A small hash is returned whole, whatever COUNT says.
        batch.truncate(BATCH);
        Ok(batch)
    }

    /// Removes one socket. Whoever's claim this is tells the others, also when an earlier
    /// repairer, or the dead process itself, got as far as removing it and no further.
    async fn repair_socket(&self, dead: &str, socket: &str, owner: &str) -> RedisResult<()> {
        if let Some((user, session)) = owner.split_once(' ') {
            let departed = self.remove_member(dead, socket, user).await?;
            let left = departed.sessions_left;
            if !left.iter().any(|s| s == session) {
                self.settle_gone(user, session).await?;
            }
            if left.is_empty() {
                self.presence.found(PresenceChange::Gone {
                    user: user.into(),
                    name: departed.name,
                });
            }
        }
        self.remove_from_index(dead, socket).await
    }

    async fn renew_claim(&self, dead: &str) -> RedisResult<()> {
        let mut connection = self.link.connection().await;
        redis::cmd("PEXPIRE")
            .arg(claim_key(dead))
            .arg(millis(self.config.lease))
            .exec_async(&mut connection)
            .await
    }

    async fn forget(&self, dead: &str) -> RedisResult<()> {
        let mut connection = self.link.connection().await;
        redis::cmd("SREM")
            .arg(INSTANCES)
            .arg(dead)
            .exec_async(&mut connection)
            .await?;
        redis::cmd("DEL")
            .arg(claim_key(dead))
            .exec_async(&mut connection)
            .await
    }
}

fn claim_key(dead: &str) -> String {
    format!("cc:repair:{dead}")
}
