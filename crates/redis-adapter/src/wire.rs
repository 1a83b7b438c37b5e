//! What requests and responses have in common: a message in one of two forms, and names that
//! may be numbers. Pure.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};

use crate::broadcast::{MAX_MESSAGE, MAX_ROOMS};
use crate::msgpack::{DecodeError, Reader};
use crate::payload;

/// A message as JSON text, whichever form it came in.
pub(crate) struct Text {
    pub(crate) json: String,
    /// What placeholders in the text stand for; JSON has none.
    pub(crate) attachments: VecDeque<Bytes>,
}

impl Text {
    /// A message that begins with `{` is JSON, and any other MessagePack, where that is a number
    /// and hence no message.
    pub(crate) fn read(message: &Bytes) -> Result<Self, DecodeError> {
        if message.len() > MAX_MESSAGE {
            return Err(DecodeError::TooMany("bytes"));
        }
        if message.first() == Some(&b'{') {
            // Half a surrogate pair has no UTF-8; JavaScript replaces it as well.
            let json = String::from_utf8_lossy(message).into_owned();
            let attachments = VecDeque::new();
            return Ok(Self { json, attachments });
        }
        let mut reader = Reader::new(message);
        let (json, attachments) = payload::msgpack_to_json(&mut reader, message)?;
        reader.finish()?;
        Ok(Self { json, attachments })
    }
}

/// The name of a room. JavaScript allows numbers, which are told apart from their text nowhere
/// on the wire but inside messages.
pub(crate) struct Name(pub(crate) String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneName;

        impl Visitor<'_> for OneName {
            type Value = Name;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(name.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Name, E> {
                Ok(Name(number.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Name, E> {
                Ok(Name(number.to_string()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Name, E> {
                Ok(Name(number.to_string()))
            }
        }

        deserializer.deserialize_any(OneName)
    }
}

/// A list of names, of bounded length; `null` is an empty one.
#[derive(Default)]
pub(crate) struct Names(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Names;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of names")
            }

            fn visit_unit<E>(self) -> Result<Names, E> {
                Ok(Names::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some(Name(name)) = list.next_element()? {
                    if names.len() == MAX_ROOMS as usize {
                        return Err(A::Error::custom("too many names"));
                    }
                    names.push(name);
                }
                Ok(Names(names))
            }
        }

        deserializer.deserialize_any(List)
    }
}
