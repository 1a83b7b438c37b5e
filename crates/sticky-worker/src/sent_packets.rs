//! Counts the application's packets in what leaves the worker for a client. Beside
//! what the application says that it has queued, this tells when none waits.
//!
//! Packets of Engine.IO that come of themselves (pings, the upgrade) do not count,
//! nor do those of Socket.IO after which nothing follows in their namespace
//! (disconnect, a refused connection).

use crate::text_frame::{HEAD_MAX, TEXT_FRAME};

/// Between the packets of a poll's answer (Engine.IO protocol 4).
const SEPARATOR: u8 = 0x1e;

const BINARY_FRAME: u8 = 0x82;
/// Frames from this first byte on are control frames, and end with themselves.
const CONTROL_FRAMES: std::ops::RangeInclusive<u8> = 0x88..=0x8a;

/// Bytes of a packet that are looked at: `45`, the number of attachments, `-`.
const LOOKED_AT: usize = 8;

/// The answer to a probe.
const PROBED: &[u8] = b"3probe";

/// The end of the answer that makes a connection a WebSocket.
const HTTP_END: &[u8] = b"\r\n\r\n";

/// What the beginning of a packet says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// An event, an acknowledgement, or the answer to who connects to a namespace.
    Counted {
        /// Binary packets that follow, and belong to it.
        attachments: u32,
    },
    Other,
    /// A number of attachments that nobody sends.
    Unreadable,
}

fn kind(packet: &[u8]) -> Kind {
    match packet {
        [b'4', b'0' | b'2' | b'3', ..] => Kind::Counted { attachments: 0 },
        [b'4', b'5' | b'6', rest @ ..] => {
            let digits = rest.iter().position(|byte| *byte == b'-');
            let number = digits.and_then(|end| std::str::from_utf8(&rest[..end]).ok());
            match number.and_then(|number| number.parse().ok()) {
                Some(attachments) => Kind::Counted { attachments },
                None => Kind::Unreadable,
            }
        }
        _ => Kind::Other,
    }
}

/// Those in the answer to a poll.
pub(crate) fn in_poll(body: &[u8]) -> u64 {
    let packets = body.split(|byte| *byte == SEPARATOR);
    let counted = packets.filter(|packet| kind(packet) != Kind::Other);
    counted.count() as u64
}

/// Those in the frames of a WebSocket, as they are written, in pieces of any size.
/// Begins with the answer that accepts it.
#[derive(Default)]
pub(crate) struct SentFrames {
    /// How much of the end of the HTTP answer was seen.
    http_end: usize,
    /// The head of a frame and what is looked at of its payload.
    beginning: [u8; HEAD_MAX + LOOKED_AT],
    begun: usize,
    /// Bytes that are missing of the frame behind its beginning.
    left: u64,
    /// The application has written more than its answer to the probe of an upgrade: the
    /// client listens here.
    speaks: bool,
    /// Frames until a packet that counts is whole, with the one that is being written.
    owed: u32,
    packets: u64,
    unreadable: bool,
}

impl SentFrames {
    /// Packets that were written to their end.
    pub(crate) fn packets(&self) -> u64 {
        self.packets
    }

    /// Whether a frame may be written now that has nothing to do with those before.
    pub(crate) fn is_between_packets(&self) -> bool {
        let within = self.begun > 0 || self.left > 0 || self.owed > 0;
        self.speaks && !within && !self.unreadable
    }

    /// These bytes were written.
    pub(crate) fn wrote(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.unreadable {
                return;
            }
            if self.left > 0 {
                let taken = self.left.min(bytes.len() as u64);
                self.left -= taken;
                bytes = &bytes[taken as usize..];
                if self.left == 0 {
                    self.frame_ended();
                }
                continue;
            }
            bytes = rest;
            if self.http_end < HTTP_END.len() {
                self.http_end = match *first == HTTP_END[self.http_end] {
                    true => self.http_end + 1,
                    // A line feed ends a line, and begins none.
                    false => usize::from(*first == HTTP_END[0]),
                };
                continue;
            }
            self.beginning[self.begun] = *first;
            self.begun += 1;
            if let Some((head, payload)) = self.lengths() {
                let looked_at = payload.min(LOOKED_AT as u64);
                if self.begun == head + looked_at as usize {
                    self.frame_begun(head);
                    self.left = payload - looked_at;
                    if self.left == 0 {
                        self.frame_ended();
                    }
                }
            }
        }
    }

    /// Of the frame's head and of its payload, once the head is there.
    fn lengths(&self) -> Option<(usize, u64)> {
        let beginning = &self.beginning[..self.begun];
        match *beginning {
            [_, 126, high, low, ..] => Some((4, u16::from_be_bytes([high, low]).into())),
            [_, 127, ..] => {
                let length = beginning.get(2..HEAD_MAX)?.try_into().ok()?;
                Some((HEAD_MAX, u64::from_be_bytes(length)))
            }
            [_, 126, ..] => None,
            [_, short, ..] => Some((2, short.into())),
            _ => None,
        }
    }

    fn frame_begun(&mut self, head: usize) {
        let is_masked = self.beginning[1] & 0x80 != 0;
        match self.beginning[0] {
            _ if is_masked => self.unreadable = true,
            TEXT_FRAME if self.owed == 0 => {
                let packet = &self.beginning[head..self.begun];
                self.speaks |= packet != PROBED;
                match kind(packet) {
                    Kind::Counted { attachments } => self.owed = attachments.saturating_add(1),
                    Kind::Other => {}
                    Kind::Unreadable => self.unreadable = true,
                }
            }
            BINARY_FRAME => {}
            first if CONTROL_FRAMES.contains(&first) => {}
            // A text among attachments, or a part of a message: Engine.IO sends neither.
            _ => self.unreadable = true,
        }
    }

    fn frame_ended(&mut self) {
        let is_control = CONTROL_FRAMES.contains(&self.beginning[0]);
        self.begun = 0;
        if self.owed > 0 && !is_control {
            self.owed -= 1;
            self.packets += u64::from(self.owed == 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text_frame;

    const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n";

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = text_frame::text_frame(payload);
        frame[0] = first;
        frame
    }

    fn text(packet: &str) -> Vec<u8> {
        frame(TEXT_FRAME, packet.as_bytes())
    }

    #[test]
    fn packets_count_when_they_are_whole_in_pieces_of_any_size() {
        let long = |length: usize| text(&format!("42[\"{}\"]", "x".repeat(length)));
        let frames = [
            (text("0{\"sid\":\"\"}"), 0),
            (text("40{\"sid\":\"\"}"), 1),
            (text("2"), 1),
            (text("42[\"e\"]"), 2),
            (text("430[]"), 3),
            (frame(0x8a, b""), 3),
            (long(119), 4),
            (long(120), 5),
            (long(65_530), 6),
            (long(70_000), 7),
            (text("41"), 7),
            (text("44{}"), 7),
            (text(""), 7),
            (text("4"), 7),
            (text("452-/n,[\"e\"]"), 7),
            (frame(BINARY_FRAME, b"1"), 7),
            (frame(0x89, b"ping"), 7),
            (frame(BINARY_FRAME, &[0; 300]), 8),
            (text("4612-[]"), 8),
        ];
        for size in [1, 2, 3, 7, 64, 1_000_000] {
            let mut sent = SentFrames::default();
            for piece in [ACCEPTED, &text("3probe")].concat().chunks(size) {
                sent.wrote(piece);
                assert!(!sent.is_between_packets());
            }
            for (frame, packets) in &frames {
                let before = sent.packets();
                let pieces: Vec<_> = frame.chunks(size).collect();
                for piece in &pieces[..pieces.len() - 1] {
                    sent.wrote(piece);
                    assert!(!sent.is_between_packets());
                    assert_eq!(sent.packets(), before);
                }
                sent.wrote(pieces[pieces.len() - 1]);
                assert_eq!(sent.packets(), *packets, "{frame:?} in pieces of {size}");
                assert_eq!(sent.is_between_packets(), sent.owed == 0);
            }
            // Its attachments are missing.
            assert!(!sent.is_between_packets());
        }
    }

    #[test]
    fn nothing_is_between_packets_after_what_cannot_be_read() {
        let masked = [TEXT_FRAME, 0x81, 0, 0, 0, 0, b'2'];
        let number = text("45x-[]");
        let part = frame(0x01, b"42[");
        let among = [text("451-[]"), text("2")].concat();
        for bytes in [&masked[..], &number, &part, &among] {
            let mut sent = SentFrames::default();
            sent.wrote(ACCEPTED);
            sent.wrote(bytes);
            for packet in ["2", "42[]"] {
                sent.wrote(&text(packet));
                assert!(!sent.is_between_packets(), "{bytes:?}");
            }
        }
    }

    #[test]
    fn an_answer_to_a_poll_has_any_number_of_packets() {
        for (body, packets) in [
            ("", 0),
            ("6", 0),
            ("2\u{1e}42[\"e\"]", 1),
            ("40{}\u{1e}42[]\u{1e}43/n,7[]\u{1e}41\u{1e}1", 3),
            ("451-[]\u{1e}bAAAA\u{1e}42[\"4\"]", 2),
        ] {
            assert_eq!(in_poll(body.as_bytes()), packets, "{body}");
        }
    }
}
