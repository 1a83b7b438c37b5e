//! What a Redis Cluster needs beside a connection to it.

use std::collections::HashMap;

use futures_util::future::try_join_all;
use redis::aio::ConnectionLike;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::Slot;
use redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, Value};

/// Sends the commands of each slot in one pipeline, side by side: the order is kept within a slot,
/// and so for every key. Returns the answers in the order of the commands.
///
/// # Errors
/// When one of the pipelines could not be sent; the others may have been.
pub async fn send_by_slot(
    connection: &ClusterConnection,
    pipeline: &Pipeline,
) -> RedisResult<Vec<Value>> {
    let mut parts: HashMap<Option<Slot>, (Pipeline, Vec<usize>)> = HashMap::new();
    for (at, command) in pipeline.cmd_iter().enumerate() {
        let (part, places) = parts.entry(slot_of(command)).or_default();
        part.add_command(command.clone());
        places.push(at);
    }
    let answers = parts.into_values().map(|(part, places)| {
        let mut connection = connection.clone();
        async move {
            let values = connection.req_packed_commands(&part, 0, part.len()).await?;
            if values.len() != places.len() {
                let unexpected = "another number of answers than commands";
                return Err(RedisError::from((
                    ErrorKind::UnexpectedReturnType,
                    unexpected,
                )));
            }
            Ok(places.into_iter().zip(values))
        }
    });
    let mut values = vec![Value::Nil; pipeline.len()];
    for (at, value) in try_join_all(answers).await?.into_iter().flatten() {
        values[at] = value;
    }
    Ok(values)
}

/// Where a command goes, by its first key; None when it has none.
fn slot_of(command: &Cmd) -> Option<Slot> {
    let mut words = command.args_iter().map(|word| match word {
        Arg::Simple(word) => word,
        _ => &[],
    });
    let name = words.next()?;
    let key = match name {
        // The script and the number of its keys come first.
        b"EVALSHA" | b"EVAL" => words.nth(2),
        b"PING" | b"TIME" | b"PUBLISH" | b"PUBSUB" | b"SCRIPT" => None,
        _ => words.next(),
    };
    key.map(Slot::for_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(words: &[&str]) -> Option<Slot> {
        let (name, args) = words.split_first().unwrap();
        slot_of(redis::cmd(name).arg(args))
    }

    #[test]
    fn a_command_goes_where_its_first_key_is() {
        let of = |key: &str| Some(Slot::for_key(key));
        assert_eq!(slot(&["HSET", "session:a", "x", "y"]), of("session:a"));
        let evaluated = slot(&[
            "EVALSHA",
            "sha",
            "2",
            "messages:u",
            "cc:ids:{messages:u}",
            "x",
        ]);
        assert_eq!(evaluated, of("messages:u"));
        assert_eq!(of("messages:u"), of("cc:ids:{messages:u}"));
        assert_eq!(slot(&["TIME"]), None);
        assert_eq!(slot(&["PUBLISH", "channel", "x"]), None);
    }
}
