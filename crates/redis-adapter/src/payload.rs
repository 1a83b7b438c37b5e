//! An event's arguments, from socketioxide's JSON text with attachments beside
//! it to MessagePack with binary inside, and back. Keeps the order of keys.
//! Pure; never an event's meaning.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write as _;

use bytes::Bytes;
use rmp::encode::{
    write_array_len, write_bin, write_bool, write_f64, write_map_len, write_nil, write_sint,
    write_str, write_uint,
};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::js_date;
use crate::msgpack::{DecodeError, MAX_DEPTH, Reader, Token};

/// Attachments in one packet: a message of one-byte attachments would otherwise
/// grow to forty times its size. socketioxide's parser has the same limit.
pub(crate) const MAX_ATTACHMENTS: usize = 10_000;

/// Writes `json` to `out`, with each placeholder replaced by its attachment.
/// Errors are those of the JSON text, which also nests at most 127 levels.
pub(crate) fn json_to_msgpack(
    json: &str,
    attachments: Option<&VecDeque<Bytes>>,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let attachments = attachments.filter(|bins| !bins.is_empty());
    Transcode { out, attachments }.deserialize(&mut deserializer)?;
    deserializer.end()
}

struct Transcode<'a> {
    out: &'a mut Vec<u8>,
    attachments: Option<&'a VecDeque<Bytes>>,
}

impl Transcode<'_> {
    fn again(&mut self) -> Transcode<'_> {
        Transcode {
            out: self.out,
            attachments: self.attachments,
        }
    }

    /// Puts the head before the `count` values written since `start`.
    fn close<E: serde::de::Error>(
        &mut self,
        start: usize,
        count: u32,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), rmp::encode::ValueWriteError>,
    ) -> Result<(), E> {
        let mut head = Vec::with_capacity(5);
        write(&mut head).map_err(E::custom)?;
        debug_assert!(count > 15 || head.len() == 1);
        // One byte was left free for it; a longer head moves what is behind.
        self.out.splice(start..=start, head);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Transcode<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Transcode<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        write_nil(self.out).map_err(E::custom)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        write_bool(self.out, value).map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        write_uint(self.out, value).map(drop).map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        write_sint(self.out, value).map(drop).map_err(E::custom)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        write_f64(self.out, value).map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        write_str(self.out, value).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut values: A) -> Result<(), A::Error> {
        let start = self.out.len();
        self.out.push(0);
        let mut count = 0;
        while values.next_element_seed(self.again())?.is_some() {
            count += 1;
        }
        self.close(start, count, |head| write_array_len(head, count).map(drop))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        let start = self.out.len();
        self.out.push(0);
        let mut count = 0;
        while entries.next_key_seed(self.again())?.is_some() {
            entries.next_value_seed(self.again())?;
            count += 1;
        }
        self.close(start, count, |head| write_map_len(head, count).map(drop))?;
        if let Some(attachments) = self.attachments
            && let Some(number) = placeholder(&self.out[start..])
        {
            let bytes = usize::try_from(number)
                .ok()
                .and_then(|number| attachments.get(number))
                .ok_or_else(|| A::Error::custom("a placeholder without its attachment"))?;
            self.out.truncate(start);
            write_bin(self.out, bytes).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// The number in `{"_placeholder":true,"num":N}`, when that is what was written.
fn placeholder(written: &[u8]) -> Option<u64> {
    let number = written.strip_prefix(b"\x82\xac_placeholder\xc3\xa3num")?;
    match Reader::new(number).token() {
        Ok(Token::UInt(number)) => Some(number),
        _ => None,
    }
}

/// Reads one value and gives its JSON text, with each binary moved out of it
/// into the attachments and a placeholder in its place. `source` is the message
/// that `reader` reads from: attachments share its memory.
pub(crate) fn msgpack_to_json(
    reader: &mut Reader<'_>,
    source: &Bytes,
) -> Result<(String, VecDeque<Bytes>), DecodeError> {
    let mut writer = JsonWriter {
        source,
        out: Vec::with_capacity(reader.rest().len() + 32),
        attachments: VecDeque::new(),
    };
    writer.value(reader, MAX_DEPTH)?;
    let json = String::from_utf8(writer.out).map_err(|_| DecodeError::Unexpected("a text"))?;
    Ok((json, writer.attachments))
}

struct JsonWriter<'a> {
    source: &'a Bytes,
    out: Vec<u8>,
    attachments: VecDeque<Bytes>,
}

impl JsonWriter<'_> {
    fn value(&mut self, reader: &mut Reader<'_>, depth: usize) -> Result<(), DecodeError> {
        match reader.token()? {
            Token::Nil => self.display("null"),
            Token::Bool(value) => self.display(value),
            Token::UInt(value) => self.display(value),
            Token::Int(value) => self.display(value),
            Token::Float(value) => self.float(value),
            Token::Str(text) => self.text(text),
            Token::Bin(bytes) => self.attachment(bytes)?,
            Token::Array(count) => {
                let depth = depth.checked_sub(1).ok_or(DecodeError::TooDeep)?;
                self.out.push(b'[');
                for at in 0..count {
                    self.comma(at);
                    self.value(reader, depth)?;
                }
                self.out.push(b']');
            }
            Token::Map(count) => {
                let depth = depth.checked_sub(1).ok_or(DecodeError::TooDeep)?;
                self.out.push(b'{');
                for at in 0..count {
                    self.comma(at);
                    self.key(reader.token()?)?;
                    self.out.push(b':');
                    self.value(reader, depth)?;
                }
                self.out.push(b'}');
            }
            Token::Ext(-1, data) => self.display(js_date::json_of_timestamp(data)?),
            // How older JavaScript nodes write `undefined`.
            Token::Ext(0, [_]) => self.display("null"),
            Token::Ext(..) => return Err(DecodeError::Unexpected("an argument")),
        }
        Ok(())
    }

    fn key(&mut self, key: Token<'_>) -> Result<(), DecodeError> {
        match key {
            Token::Str(text) => self.text(text),
            // Other writers than JavaScript's may have numbers as keys; to a reader
            // in JavaScript they are the same as their text.
            Token::UInt(value) => self.text(value.to_string().as_bytes()),
            Token::Int(value) => self.text(value.to_string().as_bytes()),
            _ => return Err(DecodeError::Unexpected("a key")),
        }
        Ok(())
    }

    fn comma(&mut self, at: u32) {
        if at > 0 {
            self.out.push(b',');
        }
    }

    fn display(&mut self, value: impl fmt::Display) {
        // Writing to memory does not fail.
        let _ = write!(self.out, "{value}");
    }

    /// As `JSON.stringify`: what is not a number is null.
    fn float(&mut self, value: f64) {
        match serde_json::Number::from_f64(value) {
            Some(number) => self.display(number),
            None => self.display("null"),
        }
    }

    fn text(&mut self, text: &[u8]) {
        // JavaScript strings may hold half a surrogate pair, which has no UTF-8;
        // JavaScript's decoder replaces it as well.
        let text = String::from_utf8_lossy(text);
        // Neither text nor memory can fail here.
        let _ = serde_json::to_writer(&mut self.out, &*text);
    }

    fn attachment(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let number = self.attachments.len();
        if number == MAX_ATTACHMENTS {
            return Err(DecodeError::TooMany("attachments"));
        }
        self.attachments.push_back(self.source.slice_ref(bytes));
        self.display(format_args!(r#"{{"_placeholder":true,"num":{number}}}"#));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(json: &str, attachments: &[&'static [u8]]) -> (String, VecDeque<Bytes>) {
        let attachments: VecDeque<Bytes> = attachments
            .iter()
            .map(|bytes| Bytes::from_static(bytes))
            .collect();
        let mut packed = Vec::new();
        json_to_msgpack(json, Some(&attachments), &mut packed).unwrap();
        let source = Bytes::from(packed);
        let mut reader = Reader::new(&source);
        let result = msgpack_to_json(&mut reader, &source).unwrap();
        reader.finish().unwrap();
        result
    }

    #[test]
    fn json_survives_the_way_there_and_back() {
        let long: Vec<u32> = (0..70_000).collect();
        let table = [
            r#"["event"]"#.to_owned(),
            r#"["e",{"z":1,"a":[null,true,false,-7,1.5,"x"],"m":{}}]"#.to_owned(),
            r#"["e",18446744073709551615,-9223372036854775808,1e+300,-0.5]"#.to_owned(),
            r#"["\u0000\"\\ \n","héllo 🦀",{"":""}]"#.to_owned(),
            serde_json::to_string(&long).unwrap(),
            format!("[{}]", vec!["{}"; 17].join(",")),
            format!("{}1{}", "[".repeat(100), "]".repeat(100)),
        ];
        for json in table {
            assert_eq!(there_and_back(&json, &[]).0, json);
        }
    }

    #[test]
    fn numbers_of_every_width_survive() {
        for shift in 0..64 {
            for number in [1u64 << shift, (1u64 << shift) - 1] {
                let json = format!("[{number}]");
                assert_eq!(there_and_back(&json, &[]).0, json);
                if let Ok(number) = i64::try_from(number) {
                    let json = format!("[{}]", -number);
                    let expected = json.replace("-0", "0");
                    assert_eq!(there_and_back(&json, &[]).0, expected);
                }
            }
        }
    }

    #[test]
    fn attachments_travel_inside_and_come_out_in_order() {
        let json =
            r#"["bin",{"_placeholder":true,"num":1},{"deep":{"_placeholder":true,"num":0}}]"#;
        let (text, attachments) = there_and_back(json, &[b"zero", b"one"]);
        // Numbered anew in the order of their places, as JavaScript does.
        assert_eq!(
            text,
            r#"["bin",{"_placeholder":true,"num":0},{"deep":{"_placeholder":true,"num":1}}]"#
        );
        assert_eq!(attachments, [&b"one"[..], &b"zero"[..]]);
    }

    #[test]
    fn what_only_looks_like_a_placeholder_is_data() {
        let table = [
            r#"[{"_placeholder":true,"num":0,"x":1}]"#,
            r#"[{"_placeholder":false,"num":0}]"#,
            r#"[{"_placeholder":true,"num":"0"}]"#,
        ];
        for json in table {
            assert_eq!(there_and_back(json, &[b"x"]).0, json);
        }
        // Without attachments it is no placeholder at all.
        let json = r#"[{"_placeholder":true,"num":0}]"#;
        assert_eq!(there_and_back(json, &[]).0, json);
        let one = VecDeque::from([Bytes::from_static(b"x")]);
        let missing = r#"[{"_placeholder":true,"num":1}]"#;
        assert!(json_to_msgpack(missing, Some(&one), &mut Vec::new()).is_err());
    }

    #[test]
    fn bad_json_is_an_error() {
        let too_deep = "[".repeat(200_000);
        for json in ["", "[", "[1]]", "nul", &too_deep] {
            assert!(json_to_msgpack(json, None, &mut Vec::new()).is_err());
        }
    }

    fn to_json(bytes: &[u8]) -> Result<String, DecodeError> {
        let source = Bytes::copy_from_slice(bytes);
        msgpack_to_json(&mut Reader::new(&source), &source).map(|(json, _)| json)
    }

    #[test]
    fn values_that_json_lacks_become_what_javascript_makes_of_them() {
        let table: &[(&[u8], &str)] = &[
            (&[0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0], "null"),
            (&[0xd6, 0xff, 0, 0, 0, 0], "\"1970-01-01T00:00:00.000Z\""),
            (&[0xd4, 0, 0], "null"),
            (&[0x82, 1, 2, 0xff, 3], r#"{"1":2,"-1":3}"#),
            (&[0xa3, 0xed, 0xa0, 0x80], "\"\u{fffd}\u{fffd}\u{fffd}\""),
        ];
        for (bytes, json) in table {
            assert_eq!(to_json(bytes).as_deref(), Ok(*json));
        }
    }

    #[test]
    fn hostile_messages_are_refused() {
        let deep = vec![0x91; 100_000];
        assert_eq!(to_json(&deep), Err(DecodeError::TooDeep));
        let mut crowd = vec![0xdc, 0x27, 0x11];
        crowd.extend([0xc4, 0].repeat(MAX_ATTACHMENTS + 1));
        assert_eq!(to_json(&crowd), Err(DecodeError::TooMany("attachments")));
        assert_eq!(
            to_json(&[0xd4, 7, 0]),
            Err(DecodeError::Unexpected("an argument"))
        );
        assert_eq!(
            to_json(&[0x81, 0x90, 1]),
            Err(DecodeError::Unexpected("a key"))
        );
        assert_eq!(
            to_json(&[0xdd, 0xff, 0xff, 0xff, 0xff]),
            Err(DecodeError::Truncated)
        );
    }
}
