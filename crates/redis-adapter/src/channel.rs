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
    fn foreign_channels_have_no_reading() {
        for channel in ["", "#", "p", "p#", "px#/#", "q#/#", "p-request#/#", "p#/"] {
            assert_eq!(readings("p", channel).count(), 0, "{channel}");
        }
    }
}
