//! What goes over a stream between two processes: frames of a length (4 bytes, little endian) and
//! that many bytes, the first of which says what it is.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Both ends must speak the same one.
pub(super) const VERSION: u8 = 1;

/// Longest frame. The largest message of a client is 1 MB; JavaScript's own emitters may send more.
pub(super) const FRAME_MAX: usize = 16 * 1024 * 1024;

/// Channels in one frame.
pub(super) const CHANNELS_MAX: usize = 512;

/// Longest name of a process.
const NAME_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// The first on each stream: who sends, and from when on what it publishes comes on this one.
    /// Times are those of [`clock`](super::clock).
    Hello { name: String, since_ns: u64 },
    /// The sender wants to hear these channels.
    Subscribe { channels: Vec<String> },
    /// It does not any more.
    Unsubscribe { channels: Vec<String> },
    /// To be answered by [`Frame::Reached`] with the same number, once all before it took effect.
    Mark { number: u64 },
    /// What was subscribed before that mark is in effect; so it was for all marks before.
    Reached { number: u64 },
    /// A message on a channel that the receiver wanted.
    Message { channel: String, payload: Bytes },
    /// Messages that were published from then on and before this may be missing.
    Missed { since_ns: u64 },
    /// The sender lives, and all that it had published by then came before this.
    Alive { at_ns: u64 },
    /// The sender ends, and has said everything.
    Bye,
}

/// The stream does not carry frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {0} bytes")]
    Length(usize),
    #[error("a malformed frame")]
    Malformed,
    #[error("version {0} of the protocol, not {VERSION}")]
    Version(u8),
}

const HELLO: u8 = 1;
const SUBSCRIBE: u8 = 2;
const UNSUBSCRIBE: u8 = 3;
const MARK: u8 = 4;
const REACHED: u8 = 5;
const MESSAGE: u8 = 6;
const MISSED: u8 = 7;
const BYE: u8 = 8;
const ALIVE: u8 = 9;

impl Frame {
    /// The frame's bytes. A channel's name must be below 64 KiB; the whole below [`FRAME_MAX`].
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(64);
        bytes.put_u32_le(0);
        match self {
            Frame::Hello { name, since_ns } => {
                bytes.put_u8(HELLO);
                bytes.put_u8(VERSION);
                bytes.put_u64_le(*since_ns);
                bytes.put_slice(name.as_bytes());
            }
            Frame::Subscribe { channels } => put_channels(&mut bytes, SUBSCRIBE, channels),
            Frame::Unsubscribe { channels } => put_channels(&mut bytes, UNSUBSCRIBE, channels),
            Frame::Mark { number } => put_number(&mut bytes, MARK, *number),
            Frame::Reached { number } => put_number(&mut bytes, REACHED, *number),
            Frame::Message { channel, payload } => {
                bytes.reserve(channel.len() + payload.len() + 3);
                bytes.put_u8(MESSAGE);
                put_text(&mut bytes, channel);
                bytes.put_slice(payload);
            }
            Frame::Missed { since_ns } => put_number(&mut bytes, MISSED, *since_ns),
            Frame::Alive { at_ns } => put_number(&mut bytes, ALIVE, *at_ns),
            Frame::Bye => bytes.put_u8(BYE),
        }
        let length = bytes.len() - 4;
        bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
        bytes.freeze()
    }

    /// Takes the first frame off `buffer`, if it is complete.
    pub(super) fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(length) = buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > FRAME_MAX {
            return Err(FrameError::Length(length));
        }
        if buffer.len() < 4 + length {
            buffer.reserve(4 + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(4);
        let mut body = buffer.split_to(length).freeze();
        Self::read(&mut body).map(Some)
    }

    fn read(body: &mut Bytes) -> Result<Self, FrameError> {
        let frame = match body.get_u8() {
            HELLO => {
                let version = body.try_get_u8().map_err(|_| FrameError::Malformed)?;
                if version != VERSION {
                    return Err(FrameError::Version(version));
                }
                let since_ns = number(body)?;
                let name = text(body.split_to(body.len()))?;
                if !is_name(&name) {
                    return Err(FrameError::Malformed);
                }
                Frame::Hello { name, since_ns }
            }
            SUBSCRIBE => Frame::Subscribe {
                channels: channels(body)?,
            },
            UNSUBSCRIBE => Frame::Unsubscribe {
                channels: channels(body)?,
            },
            MARK => Frame::Mark {
                number: number(body)?,
            },
            REACHED => Frame::Reached {
                number: number(body)?,
            },
            MESSAGE => {
                let channel = channel(body)?;
                let payload = body.split_to(body.len());
                Frame::Message { channel, payload }
            }
            MISSED => Frame::Missed {
                since_ns: number(body)?,
            },
            ALIVE => Frame::Alive {
                at_ns: number(body)?,
            },
            BYE => Frame::Bye,
            _ => return Err(FrameError::Malformed),
        };
        if body.is_empty() {
            Ok(frame)
        } else {
            Err(FrameError::Malformed)
        }
    }
}

/// Names become file names: letters, digits, `-` and `_`.
pub(super) fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(good)
}

fn put_channels(bytes: &mut BytesMut, kind: u8, channels: &[String]) {
    bytes.put_u8(kind);
    for channel in channels {
        put_text(bytes, channel);
    }
}

fn put_number(bytes: &mut BytesMut, kind: u8, number: u64) {
    bytes.put_u8(kind);
    bytes.put_u64_le(number);
}

fn put_text(bytes: &mut BytesMut, text: &str) {
    let length = u16::try_from(text.len()).expect("a channel's name is below 64 KiB");
    bytes.put_u16_le(length);
    bytes.put_slice(text.as_bytes());
}

fn channels(body: &mut Bytes) -> Result<Vec<String>, FrameError> {
    let mut channels = Vec::new();
    while body.has_remaining() {
        if channels.len() == CHANNELS_MAX {
            return Err(FrameError::Malformed);
        }
        channels.push(channel(body)?);
    }
    Ok(channels)
}

fn channel(body: &mut Bytes) -> Result<String, FrameError> {
    let length = body.try_get_u16_le().map_err(|_| FrameError::Malformed)?;
    if body.len() < usize::from(length) {
        return Err(FrameError::Malformed);
    }
    text(body.split_to(length.into()))
}

fn number(body: &mut Bytes) -> Result<u64, FrameError> {
    body.try_get_u64_le().map_err(|_| FrameError::Malformed)
}

fn text(bytes: Bytes) -> Result<String, FrameError> {
    String::from_utf8(bytes.into()).map_err(|_| FrameError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Frame> {
        let channels = vec!["socket.io#/#a#".to_owned(), String::new(), "Жук".to_owned()];
        vec![
            Frame::Hello {
                name: "worker-0".into(),
                since_ns: 1,
            },
            Frame::Subscribe {
                channels: channels.clone(),
            },
            Frame::Unsubscribe { channels },
            Frame::Mark { number: 7 },
            Frame::Reached { number: u64::MAX },
            Frame::Message {
                channel: "c".into(),
                payload: Bytes::from_static(b"\0\xff"),
            },
            Frame::Message {
                channel: String::new(),
                payload: Bytes::new(),
            },
            Frame::Missed { since_ns: 2 },
            Frame::Alive { at_ns: 3 },
            Frame::Bye,
        ]
    }

    #[test]
    fn what_is_written_is_read_however_it_is_cut() {
        let mut stream = BytesMut::new();
        for frame in all() {
            stream.put_slice(&frame.encode());
        }
        for size in [1, 2, 7, 1000] {
            let mut buffer = BytesMut::new();
            let mut read = Vec::new();
            for chunk in stream.chunks(size) {
                buffer.put_slice(chunk);
                while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                    read.push(frame);
                }
            }
            assert_eq!(read, all());
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_and_reserves_nothing() {
        let table: &[(&[u8], FrameError)] = &[
            (&[0, 0, 0, 0], FrameError::Length(0)),
            (&[255, 255, 255, 255], FrameError::Length(0xffff_ffff)),
            (&[1, 0, 0, 0, 99], FrameError::Malformed),
            (&[2, 0, 0, 0, HELLO, 9], FrameError::Version(9)),
            (
                &[12, 0, 0, 0, HELLO, 1, 0, 0, 0, 0, 0, 0, 0, 0, b'.', b'/'],
                FrameError::Malformed,
            ),
            (&[3, 0, 0, 0, HELLO, 1, b'a'], FrameError::Malformed),
            (&[1, 0, 0, 0, MISSED], FrameError::Malformed),
            (&[1, 0, 0, 0, HELLO], FrameError::Malformed),
            (&[3, 0, 0, 0, MARK, 1, 2], FrameError::Malformed),
            (&[4, 0, 0, 0, SUBSCRIBE, 9, 0, b'a'], FrameError::Malformed),
            (&[2, 0, 0, 0, BYE, 0], FrameError::Malformed),
            (&[4, 0, 0, 0, MESSAGE, 1, 0, 0xff], FrameError::Malformed),
        ];
        for (bytes, expected) in table {
            let mut buffer = BytesMut::from(*bytes);
            assert_eq!(Frame::decode(&mut buffer), Err(*expected), "{bytes:?}");
        }
    }
}
