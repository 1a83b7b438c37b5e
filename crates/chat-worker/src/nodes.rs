//! The nodes of one cluster: masters with their workers, on hosts of their own, that share a Redis.
//!
//! Each node holds an id, which its session ids carry, so that any node knows whose a request is.
//! The hash `cc:nodes` has an entry for each name:
//!
//! | field | value, JSON |
//! |---|---|
//! | the node's name | `id`; `addr`: where other nodes' workers call it, or empty; `seen`: when it last said that it lives, in milliseconds of Redis' clock; `instance`: whose the entry is |
//!
//! A name keeps its id over restarts. Two living nodes with one name are a mistake that must not
//! give both the same id: the second one is called `name#2`. Entries nobody renewed for a week go.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use redis::{RedisResult, Script};
use serde::{Deserialize, Serialize};
use sticky_worker::{NodeAddresses, NodeId};

use crate::redis_connection::RedisConnection;
use crate::redis_url::RedisUrl;

const NODES: &str = "cc:nodes";

/// How often a node says that it lives, and looks for the others.
pub const BEAT: Duration = Duration::from_secs(5);

/// After so long without a word a node is taken for dead.
pub const LEASE: Duration = Duration::from_secs(15);

/// After so long its name is forgotten, and its id free for others.
const MEMORY: Duration = Duration::from_secs(7 * 24 * 3600);

/// One step in Redis takes no longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes or renews the lease. Returns the own id, then id and address of each other node that lives
/// and can be called. A name is taken again when its last holder was this instance or is dead.
const HOLD: &str = r"
local name, instance, addr = ARGV[1], ARGV[2], ARGV[3]
local lease, memory = tonumber(ARGV[4]), tonumber(ARGV[5])
local known = tonumber(ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local entries, taken, own = {}, {}, nil
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local good, entry = pcall(cjson.decode, all[i + 1])
  good = good and type(entry) == 'table' and type(entry.id) == 'number' and type(entry.seen) == 'number'
  local ours = good and entry.instance == instance
  local named = all[i] == name or string.sub(all[i], 1, #name + 1) == name .. '#'
  if good and now - entry.seen < memory and (named or not ours) then
    entries[all[i]] = entry
    taken[entry.id] = true
    if ours then own = all[i] end
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
if not own then
  own = name
  local number = 2
  while entries[own] and now - entries[own].seen < lease do
    own = name .. '#' .. number
    number = number + 1
  end
end
local id = entries[own] and entries[own].id
if not id and known >= 0 and not taken[known] then id = known end
if not id then
  id = 0
  while taken[id] do id = id + 1 end
  if id > 65535 then return redis.error_reply('ERR there are no node ids left') end
end
redis.call('HSET', KEYS[1], own, cjson.encode({id = id, addr = addr, seen = now, instance = instance}))
redis.call('PEXPIRE', KEYS[1], memory)
local answer = {tostring(id)}
for other, entry in pairs(entries) do
  if other ~= own and now - entry.seen < lease and entry.addr and entry.addr ~= '' then
    answer[#answer + 1] = tostring(entry.id)
    answer[#answer + 1] = entry.addr
  end
end
return answer
";

/// Gives the lease back; the name keeps its id.
const LEAVE: &str = r"
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local good, entry = pcall(cjson.decode, all[i + 1])
  if good and type(entry) == 'table' and entry.instance == ARGV[1] then
    entry.seen = entry.seen - tonumber(ARGV[2])
    entry.instance = ''
    redis.call('HSET', KEYS[1], all[i], cjson.encode(entry))
  end
end
return 1
";

/// What a node is called, and where.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct NodeName {
    /// Its name, which it keeps.
    pub name: String,
    /// Random; whose the name is. All processes of a node have it.
    pub instance: String,
    /// Where other nodes' workers call it.
    pub advertise: Option<SocketAddr>,
}

/// A node's place among the others, as Redis knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// This node's id.
    pub id: NodeId,
    /// The others that live and can be called.
    pub others: NodeAddresses,
}

/// The way to the register of nodes; it connects again by itself.
pub struct NodeRegister {
    redis: RedisUrl,
    node: NodeName,
    /// The number that this node has already: a Redis that lost its data does not
    /// know it.
    known: Option<NodeId>,
    connection: Option<RedisConnection>,
    hold: Script,
}

impl NodeRegister {
    /// Connects later. `known` is the number that the node has, if it has one: it is taken again
    /// unless another node has it now.
    pub fn new(redis: RedisUrl, node: NodeName, known: Option<NodeId>) -> Self {
        Self {
            redis,
            node,
            known,
            connection: None,
            hold: Script::new(HOLD),
        }
    }

    /// Takes the lease, or renews it.
    ///
    /// # Errors
    /// Redis is away; try again.
    pub async fn hold(&mut self) -> RedisResult<Place> {
        let mut connection = self.connection().await?;
        let answer: Vec<String> = self
            .hold
            .key(NODES)
            .arg(&self.node.name)
            .arg(&self.node.instance)
            .arg(
                self.node
                    .advertise
                    .map_or(String::new(), |at| at.to_string()),
            )
            .arg(LEASE.as_millis() as u64)
            .arg(MEMORY.as_millis() as u64)
            .arg(self.known.map_or(-1, |id| i64::from(id.0)))
            .invoke_async(&mut connection)
            .await?;
        self.connection = Some(connection);
        let unexpected = || (redis::ErrorKind::UnexpectedReturnType, "no node id").into();
        read(&answer).ok_or_else(unexpected)
    }

    /// Gives the lease back: the others need not wait for it to run out.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn leave(&mut self) -> RedisResult<()> {
        let mut connection = self.connection().await?;
        Script::new(LEAVE)
            .key(NODES)
            .arg(&self.node.instance)
            .arg(LEASE.as_millis() as u64)
            .invoke_async(&mut connection)
            .await
    }

    /// The connection, taken: one that fails is not used again.
    async fn connection(&mut self) -> RedisResult<RedisConnection> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        RedisConnection::open(&self.redis, PATIENCE).await
    }
}

fn read(answer: &[String]) -> Option<Place> {
    let (id, others) = answer.split_first()?;
    let mut nodes = HashMap::new();
    for pair in others.chunks_exact(2) {
        // Of a version that writes something else: it cannot be called.
        if let (Ok(id), Ok(address)) = (pair[0].parse(), pair[1].parse()) {
            nodes.insert(NodeId(id), address);
        }
    }
    Some(Place {
        id: NodeId(id.parse().ok()?),
        others: nodes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_own_id_and_those_who_can_be_called() {
        let answer = ["3", "0", "10.0.0.1:7000", "1", "not an address"].map(String::from);
        let place = read(&answer).unwrap();
        assert_eq!(place.id, NodeId(3));
        let address = "10.0.0.1:7000".parse().unwrap();
        assert_eq!(place.others, HashMap::from([(NodeId(0), address)]));
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["70000".to_owned()]), None);
    }
}
