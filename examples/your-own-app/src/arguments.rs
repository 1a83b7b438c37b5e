//! Any number of arguments. An app whose events have a form of their own needs nothing of this: it
//! says `Data::<Message>` for one argument, or `Data::<(String, u32)>` for two.

use std::fmt;

use rmpv::Value;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeTuple, Serializer};

/// All arguments of an event or of its answer, binary ones too.
pub(crate) struct Arguments(Vec<Value>);

impl<'de> Deserialize<'de> for Arguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Arguments;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("arguments")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut rest: A) -> Result<Arguments, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = rest.next_element()? {
                    all.push(one);
                }
                Ok(Arguments(all))
            }
        }

        // socketioxide gives all arguments to what is a tuple; it reads on to their end.
        deserializer.deserialize_tuple(0, All)
    }
}

impl Serialize for Arguments {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        for one in &self.0 {
            tuple.serialize_element(one)?;
        }
        tuple.end()
    }
}
