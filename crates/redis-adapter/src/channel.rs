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

/// The namespace whose request channel `channel` is.
pub fn request_namespace<'a>(prefix: &str, channel: &'a str) -> Option<&'a str> {
    let rest = channel.strip_prefix(prefix)?.strip_prefix("-request#")?;
    rest.strip_suffix('#')
}

/// The namespaces whose response channel `channel` can be, that of `uid` included: more than one
/// when a namespace ends like a uid.
pub fn response_namespaces<'a>(
    prefix: &str,
    channel: &'a str,
    uid: &str,
) -> impl Iterator<Item = &'a str> {
    let names = channel
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix("-response#"))
        .and_then(|rest| rest.strip_suffix('#'));
    let specific = names
        .and_then(|names| names.strip_suffix(uid))
        .and_then(|names| names.strip_suffix('#'));
    specific.into_iter().chain(names)
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
    fn requests_and_responses_read_back_as_what_they_were_built_from() {
        for namespace in ["/", "/a#b"] {
            let request = request_channel("p", namespace);
            assert_eq!(request_namespace("p", &request), Some(namespace));
            let responses = [
                response_channel("p", namespace),
                specific_response_channel("p", namespace, "u"),
            ];
            for channel in responses {
                let mut read = response_namespaces("p", &channel, "u");
                assert!(read.any(|read| read == namespace), "{channel}");
                assert_eq!(readings("p", &channel).count(), 0);
                assert_eq!(request_namespace("p", &channel), None);
            }
            let request = request_channel("socket.io", namespace);
            assert_eq!(request, format!("socket.io-request#{namespace}#"));
        }
        assert_eq!(response_namespaces("p", "p-response#", "u").count(), 0);
        assert_eq!(readings("p", &node_channel("p")).count(), 0);
    }

    #[test]
    fn foreign_channels_have_no_reading() {
        for channel in ["", "#", "p", "p#", "px#/#", "q#/#", "p-request#/#", "p#/"] {
            assert_eq!(readings("p", channel).count(), 0, "{channel}");
        }
    }
}
