//! Engine.IO 4 packets with Socket.IO 5 packets of the default namespace in them, as text.

/// One packet that a server sent. The payloads are JSON texts.
#[derive(Debug, PartialEq)]
pub(crate) enum Packet<'a> {
    /// The session: `{"sid":…}`.
    Open(&'a str),
    Close,
    Ping,
    /// The answer to `2probe`.
    ProbePong,
    Noop,
    /// Connected to the namespace.
    Connected,
    /// `connect_error`, or disconnected by the server.
    Refused(&'a str),
    /// `["name", …]`.
    Event(&'a str),
    /// The ack of what was sent with this number, `[…]`.
    Ack(u64, &'a str),
    /// What a chat server does not send.
    Unknown(&'a str),
}

/// Reads one packet.
pub(crate) fn read(text: &str) -> Packet<'_> {
    let Some((kind, rest)) = text.split_at_checked(1) else {
        return Packet::Unknown(text);
    };
    match kind {
        "0" => Packet::Open(rest),
        "1" => Packet::Close,
        "2" => Packet::Ping,
        "3" if rest == "probe" => Packet::ProbePong,
        "4" => read_message(rest),
        "6" => Packet::Noop,
        _ => Packet::Unknown(text),
    }
}

fn read_message(text: &str) -> Packet<'_> {
    let Some((kind, rest)) = text.split_at_checked(1) else {
        return Packet::Unknown(text);
    };
    match kind {
        "0" => Packet::Connected,
        "1" | "4" => Packet::Refused(rest),
        "2" => Packet::Event(rest.trim_start_matches(|c: char| c.is_ascii_digit())),
        "3" => {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            match rest[..digits].parse() {
                Ok(number) => Packet::Ack(number, &rest[digits..]),
                Err(_) => Packet::Unknown(text),
            }
        }
        _ => Packet::Unknown(text),
    }
}

/// The packets of a polling answer.
pub(crate) fn split(payload: &str) -> impl Iterator<Item = Packet<'_>> {
    payload.split('\u{1e}').map(read)
}

/// The session id that an open packet tells.
pub(crate) fn sid(open: &str) -> anyhow::Result<String> {
    #[derive(serde::Deserialize)]
    struct Open {
        sid: String,
    }
    Ok(serde_json::from_str::<Open>(open)?.sid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_a_chat() {
        let payload =
            "2\u{1e}40{\"sid\":\"x\"}\u{1e}42[\"session\",{}]\u{1e}4312[{\"ok\":true}]\u{1e}6";
        let packets: Vec<_> = split(payload).collect();
        assert_eq!(
            packets,
            [
                Packet::Ping,
                Packet::Connected,
                Packet::Event("[\"session\",{}]"),
                Packet::Ack(12, "[{\"ok\":true}]"),
                Packet::Noop,
            ]
        );
        assert_eq!(
            read("44{\"message\":\"no\"}"),
            Packet::Refused("{\"message\":\"no\"}")
        );
        assert_eq!(read("3probe"), Packet::ProbePong);
        assert_eq!(sid("{\"sid\":\"abc\",\"upgrades\":[]}").unwrap(), "abc");
    }

    #[test]
    fn nonsense_is_unknown() {
        for text in ["", "4", "9", "43x[]", "é", "4é"] {
            assert!(matches!(read(text), Packet::Unknown(_)), "{text}");
        }
    }
}
