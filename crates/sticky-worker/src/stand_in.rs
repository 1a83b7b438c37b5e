//! A large packet goes through the application's queue as a short text that
//! stands for it, and takes its place where it leaves the worker. It keeps its
//! order so, and the application's buffers do not see it: that of a WebSocket
//! keeps the size of the largest packet that it ever had.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::buf::Chain;
use bytes::{Buf, Bytes};

use crate::secret::Secret;
use crate::text_frame::{self, SHORT_MAX, TEXT_FRAME};

/// What follows the text in its packet: it is the last argument.
const END: &[u8] = b"\"]";

/// What of one client is stood for.
#[derive(Default)]
pub(crate) struct StandIns {
    count: AtomicUsize,
    waiting: Mutex<Vec<(Secret, Bytes)>>,
}

/// A WebSocket frame in the place of another one.
pub(crate) type Frame = Chain<Chain<Bytes, Bytes>, Bytes>;

impl StandIns {
    /// Something stands for `json` from now on.
    pub(crate) fn add(&self, json: Bytes) -> Secret {
        let text = Secret::random();
        self.lock().push((text, json));
        self.count.fetch_add(1, SeqCst);
        text
    }

    fn are_none(&self) -> bool {
        self.count.load(SeqCst) == 0
    }

    /// The first text in `bytes` that stands for something, and where it is.
    fn first_in(&self, bytes: &[u8]) -> Option<(Secret, usize)> {
        if self.are_none() {
            return None;
        }
        let waiting = self.lock();
        let found = waiting.iter().filter_map(|(text, _)| {
            let wanted = text.as_str().as_bytes();
            let at = bytes.windows(wanted.len()).position(|part| part == wanted);
            at.map(|at| (*text, at))
        });
        found.min_by_key(|(_, at)| *at)
    }

    fn take(&self, text: Secret) -> Option<Bytes> {
        let mut waiting = self.lock();
        let at = waiting.iter().position(|(known, _)| *known == text)?;
        let (_, json) = waiting.swap_remove(at);
        if waiting.is_empty() {
            *waiting = Vec::new();
        }
        self.count.fetch_sub(1, SeqCst);
        Some(json)
    }

    /// Of what goes to a WebSocket, frames without a mask: where the first frame is
    /// that stands for another one. `bytes` end with a whole frame.
    pub(crate) fn frame_in(&self, bytes: &[u8]) -> Option<(Secret, Range<usize>)> {
        let (text, at) = self.first_in(bytes)?;
        let end = at + text.as_str().len() + END.len();
        let begin = (at.saturating_sub(SHORT_MAX)..at).find(|begin| {
            let length = usize::from(bytes[begin + 1]);
            bytes[*begin] == TEXT_FRAME && length <= SHORT_MAX && begin + 2 + length == end
        })?;
        (bytes.get(end - END.len()..end)? == END).then_some((text, begin..end))
    }

    /// The frame that takes the place of `short`, which stands for it.
    pub(crate) fn frame(&self, text: Secret, short: &[u8]) -> Option<Frame> {
        let json = self.take(text)?;
        let quoted = text.as_str().len() + 1 + END.len();
        let before = &short[2..short.len() - quoted];
        let length = before.len() + json.len() + 1;
        let (head, head_length) = text_frame::head(length);
        let mut head = head[..head_length].to_vec();
        head.extend(before);
        let end = Bytes::from_static(&END[1..]);
        Some(Bytes::from(head).chain(json).chain(end))
    }

    /// The same in the answer to a poll, with all in it that is stood for.
    pub(crate) fn fill_in(&self, mut body: Bytes) -> Bytes {
        while let Some((text, at)) = self.first_in(&body)
            && let Some(json) = self.take(text)
        {
            let behind = at + text.as_str().len() + 1;
            body = [&body[..at - 1], &json, &body[behind..]].concat().into();
        }
        body
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Secret, Bytes)>> {
        self.waiting.lock().expect("never poisoned")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &str) -> Vec<u8> {
        let mut frame = vec![TEXT_FRAME];
        match text.len() {
            short @ ..=SHORT_MAX => frame.push(short as u8),
            long => {
                frame.push(126);
                frame.extend((long as u16).to_be_bytes());
            }
        }
        frame.extend(text.as_bytes());
        frame
    }

    fn whole(mut frame: Frame) -> Vec<u8> {
        frame.copy_to_bytes(frame.remaining()).to_vec()
    }

    #[test]
    fn a_frame_takes_the_place_of_the_one_that_stands_for_it() {
        let stand_ins = StandIns::default();
        assert!(stand_ins.frame_in(&frame("42[\"x\"]")).is_none());
        for length in [3, 100, 125, 126, 1_000, 65_530, 70_000] {
            let json = format!("\"{}\"", "é".repeat(length / 2));
            let text = stand_ins.add(json.clone().into());
            let before = [
                frame("42[\"a\"]"),
                vec![0x81, 0x00],
                frame(&"y".repeat(300)),
            ]
            .concat();
            let short = frame(&format!("42/\u{1041},7[\"users\",\"{}\"]", text.as_str()));
            let behind = frame("2");
            let all = [&before[3..], &short, &behind].concat();
            let (found, at) = stand_ins.frame_in(&all).unwrap();
            assert!(found == text);
            assert_eq!(at, before.len() - 3..before.len() - 3 + short.len());
            let written = whole(stand_ins.frame(text, &all[at]).unwrap());
            let packet = format!("42/\u{1041},7[\"users\",{json}]");
            let head = written.len() - packet.len();
            assert_eq!(&written[head..], packet.as_bytes());
            let expected: &[u8] = match packet.len() {
                short @ ..=125 => &[TEXT_FRAME, short as u8],
                long @ ..=65_535 => {
                    &[&[TEXT_FRAME, 126][..], &(long as u16).to_be_bytes()].concat()
                }
                long => &[&[TEXT_FRAME, 127][..], &(long as u64).to_be_bytes()].concat(),
            };
            assert_eq!(&written[..head], expected);
            assert!(stand_ins.frame_in(&all).is_none() && stand_ins.are_none());
        }
    }

    #[test]
    fn the_first_of_several_is_found_first() {
        let stand_ins = StandIns::default();
        let texts = [1, 2].map(|n| stand_ins.add(n.to_string().into()));
        let short = |n: usize| frame(&format!("42[\"e\",\"{}\"]", texts[n].as_str()));
        let all = [short(1), short(0)].concat();
        let (found, at) = stand_ins.frame_in(&all).unwrap();
        assert!(found == texts[1] && at == (0..short(1).len()));
    }

    #[test]
    fn an_answer_to_a_poll_has_what_was_stood_for() {
        let stand_ins = StandIns::default();
        let texts = [r#"[{"a":1}]"#, "[]"].map(|json| stand_ins.add(json.into()));
        let [one, two] = texts.map(|text| text.as_str().to_owned());
        let body = format!("42[\"x\"]\u{1e}42[\"users\",\"{two}\"]\u{1e}430[\"{one}\"]");
        let filled = stand_ins.fill_in(body.into());
        assert_eq!(
            filled,
            "42[\"x\"]\u{1e}42[\"users\",[]]\u{1e}430[[{\"a\":1}]]"
        );
        assert!(stand_ins.are_none());
        let plain = Bytes::from_static(b"2");
        assert_eq!(stand_ins.fill_in(plain.clone()), plain);
    }
}
