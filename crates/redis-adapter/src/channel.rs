//! Channel names as `@socket.io/redis-adapter` builds them. Pure.

/// The prefix when none is configured, as in JavaScript.
pub const DEFAULT_PREFIX: &str = "socket.io";

/// `prefix#nsp#`: broadcasts of a namespace to everyone or to several rooms.
pub fn base_channel(prefix: &str, namespace: &str) -> String {
    format!("{prefix}#{namespace}#")
}

/// `prefix#nsp#room#`: broadcasts of a namespace to exactly one room.
pub fn room_channel(prefix: &str, namespace: &str, room: &str) -> String {
    format!("{prefix}#{namespace}#{room}#")
}

/// `prefix-request#nsp#`: what servers ask each other in a namespace.
pub fn request_channel(prefix: &str, namespace: &str) -> String {
    format!("{prefix}-request#{namespace}#")
}

/// `prefix-response#nsp#`: the answers, for all to hear.
pub fn response_channel(prefix: &str, namespace: &str) -> String {
    format!("{prefix}-response#{namespace}#")
}

/// `prefix-response#nsp#uid#`: the answers to one server's requests. Each server is subscribed to
/// its own in each of its namespaces, so its subscribers also tell whether that one is there.
pub fn specific_response_channel(prefix: &str, namespace: &str, uid: &str) -> String {
    format!("{prefix}-response#{namespace}#{uid}#")
}

/// `prefix-node#`: where the processes with this adapter say that they live. JavaScript's do not.
pub fn node_channel(prefix: &str) -> String {
    format!("{prefix}-node#")
}

/// What a channel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// Broadcasts, to be read with [`readings`].
    Broadcasts,
    /// Requests in this namespace.
    Requests(&'a str),
    /// Answers; each says what it answers.
    Responses,
    /// Signs of life.
    Nodes,
}

/// What `channel` is for; None when its name is none of the adapter's with this prefix.
pub fn purpose<'a>(prefix: &str, channel: &'a str) -> Option<Purpose<'a>> {
    let rest = channel.strip_prefix(prefix)?;
    if rest.starts_with('#') {
        return Some(Purpose::Broadcasts);
    }
    let names = rest.strip_suffix('#')?;
    if let Some(namespace) = names.strip_prefix("-request#") {
        return Some(Purpose::Requests(namespace));
    }
    match names {
        "-node" => Some(Purpose::Nodes),
        _ => names
            .starts_with("-response#")
            .then_some(Purpose::Responses),
    }
}

/// What `channel` can mean: pairs of a namespace and a room, or no room for a
/// base channel. There is more than one reading when a name contains `#`,
/// which JavaScript allows; the caller takes the one it knows.
pub fn readings<'a>(
    prefix: &str,
    channel: &'a str,
) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
    let names = channel
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('#'))
        .and_then(|rest| rest.strip_suffix('#'));
    names.into_iter().flat_map(|names| {
        let with_room = names
            .match_indices('#')
            .map(move |(at, _)| (&names[..at], Some(&names[at + 1..])));
        with_room.chain(std::iter::once((names, None)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_javascript_adapter() {
        assert_eq!(base_channel(DEFAULT_PREFIX, "/"), "socket.io#/#");
        assert_eq!(base_channel("app", "/orders"), "app#/orders#");
        assert_eq!(
            room_channel(DEFAULT_PREFIX, "/", "room1"),
            "socket.io#/#room1#"
        );
    }

    #[test]
    fn a_channel_reads_back_as_what_it_was_built_from() {
        for (namespace, room) in [("/", "r"), ("/a", "x#y"), ("/a#b", "z"), ("/", "")] {
            let channel = room_channel("p", namespace, room);
            assert!(
                readings("p", &channel).any(|reading| reading == (namespace, Some(room))),
                "{channel}"
            );
            let channel = base_channel("p", namespace);
            assert!(readings("p", &channel).any(|reading| reading == (namespace, None)));
        }
    }

    #[test]
    fn each_channel_has_the_purpose_that_it_was_built_for() {
        for namespace in ["/", "/a#b"] {
            let channels = [
                (base_channel("p", namespace), Purpose::Broadcasts),
                (room_channel("p", namespace, "r"), Purpose::Broadcasts),
                (
                    request_channel("p", namespace),
                    Purpose::Requests(namespace),
                ),
                (response_channel("p", namespace), Purpose::Responses),
                (
                    specific_response_channel("p", namespace, "u"),
                    Purpose::Responses,
                ),
                (node_channel("p"), Purpose::Nodes),
            ];
            for (channel, expected) in channels {
                assert_eq!(purpose("p", &channel), Some(expected), "{channel}");
                let is_broadcast = expected == Purpose::Broadcasts;
                assert_eq!(readings("p", &channel).count() > 0, is_broadcast);
                assert_eq!(purpose("q", &channel), None);
            }
        }
        for channel in ["", "p", "p-node", "p-request#/", "pp#/#", "p-responses#"] {
            assert_eq!(purpose("p", channel), None, "{channel}");
        }
        assert_eq!(request_channel("socket.io", "/"), "socket.io-request#/#");
    }

    #[test]
    fn foreign_channels_have_no_reading() {
        for channel in ["", "#", "p", "p#", "px#/#", "q#/#", "p-request#/#", "p#/"] {
            assert_eq!(readings("p", channel).count(), 0, "{channel}");
        }
    }
}
