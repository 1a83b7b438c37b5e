//! Reads MessagePack one token at a time from untrusted bytes. Pure: allocates
//! nothing, never recurses, and trusts no length that the bytes do not cover.

use rmp::Marker;

/// How deep arrays and maps may nest. Bounds the stack of whoever recurses over
/// the tokens; serde_json has the same limit, so what passes here can be sent on.
pub(crate) const MAX_DEPTH: usize = 128;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside a value.
    #[error("the message is cut short")]
    Truncated,
    /// Bytes are left after the message.
    #[error("bytes follow the message")]
    TrailingBytes,
    /// Arrays and maps nest deeper than 128 levels.
    #[error("the message nests too deeply")]
    TooDeep,
    /// More than a bound allows; the text names what.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// A value of another kind than the format has there; the text names the place.
    #[error("unexpected value for {0}")]
    Unexpected(&'static str),
}

/// One MessagePack value, or the head of one that has values inside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Token<'a> {
    Nil,
    Bool(bool),
    UInt(u64),
    Int(i64),
    Float(f64),
    /// The bytes are usually, not surely, UTF-8.
    Str(&'a [u8]),
    Bin(&'a [u8]),
    /// This many values follow.
    Array(u32),
    /// This many keys follow, each with its value.
    Map(u32),
    Ext(i8, &'a [u8]),
}

/// A position in a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::TrailingBytes)
        }
    }

    pub(crate) fn token(&mut self) -> Result<Token<'a>, DecodeError> {
        let [marker] = self.fixed()?;
        Ok(match Marker::from_u8(marker) {
            Marker::Null => Token::Nil,
            Marker::False => Token::Bool(false),
            Marker::True => Token::Bool(true),
            Marker::FixPos(value) => Token::UInt(value.into()),
            Marker::U8 => Token::UInt(self.length::<1>()?),
            Marker::U16 => Token::UInt(self.length::<2>()?),
            Marker::U32 => Token::UInt(self.length::<4>()?),
            Marker::U64 => Token::UInt(self.length::<8>()?),
            Marker::FixNeg(value) => Token::Int(value.into()),
            Marker::I8 => Token::Int(i8::from_be_bytes(self.fixed()?).into()),
            Marker::I16 => Token::Int(i16::from_be_bytes(self.fixed()?).into()),
            Marker::I32 => Token::Int(i32::from_be_bytes(self.fixed()?).into()),
            Marker::I64 => Token::Int(i64::from_be_bytes(self.fixed()?)),
            Marker::F32 => Token::Float(f32::from_be_bytes(self.fixed()?).into()),
            Marker::F64 => Token::Float(f64::from_be_bytes(self.fixed()?)),
            Marker::FixStr(length) => Token::Str(self.take(length.into())?),
            Marker::Str8 => Token::Str(self.sized::<1>()?),
            Marker::Str16 => Token::Str(self.sized::<2>()?),
            Marker::Str32 => Token::Str(self.sized::<4>()?),
            Marker::Bin8 => Token::Bin(self.sized::<1>()?),
            Marker::Bin16 => Token::Bin(self.sized::<2>()?),
            Marker::Bin32 => Token::Bin(self.sized::<4>()?),
            Marker::FixArray(count) => Token::Array(count.into()),
            Marker::Array16 => Token::Array(u16::from_be_bytes(self.fixed()?).into()),
            Marker::Array32 => Token::Array(u32::from_be_bytes(self.fixed()?)),
            Marker::FixMap(count) => Token::Map(count.into()),
            Marker::Map16 => Token::Map(u16::from_be_bytes(self.fixed()?).into()),
            Marker::Map32 => Token::Map(u32::from_be_bytes(self.fixed()?)),
            Marker::FixExt1 => self.ext(1)?,
            Marker::FixExt2 => self.ext(2)?,
            Marker::FixExt4 => self.ext(4)?,
            Marker::FixExt8 => self.ext(8)?,
            Marker::FixExt16 => self.ext(16)?,
            Marker::Ext8 => {
                let length = self.length::<1>()?;
                self.ext(length)?
            }
            Marker::Ext16 => {
                let length = self.length::<2>()?;
                self.ext(length)?
            }
            Marker::Ext32 => {
                let length = self.length::<4>()?;
                self.ext(length)?
            }
            Marker::Reserved => return Err(DecodeError::Unexpected("a MessagePack marker")),
        })
    }

    /// Passes over one whole value and returns its bytes.
    pub(crate) fn skip(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.rest;
        // Values still to come in each open array or map.
        let mut open = [0u64; MAX_DEPTH];
        let mut depth = 0;
        loop {
            let inside = match self.token()? {
                Token::Array(count) => u64::from(count),
                Token::Map(count) => 2 * u64::from(count),
                _ => 0,
            };
            if inside > 0 {
                *open.get_mut(depth).ok_or(DecodeError::TooDeep)? = inside;
                depth += 1;
                continue;
            }
            // That was a whole value: it may have been the last one of what it is in.
            loop {
                if depth == 0 {
                    return Ok(&start[..start.len() - self.rest.len()]);
                }
                open[depth - 1] -= 1;
                if open[depth - 1] > 0 {
                    break;
                }
                depth -= 1;
            }
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(length).map_err(|_| DecodeError::Truncated)?;
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A big-endian number of `N` bytes.
    fn length<const N: usize>(&mut self) -> Result<u64, DecodeError> {
        let bytes: [u8; N] = self.fixed()?;
        Ok(bytes
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn sized<const N: usize>(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.length::<N>()?;
        self.take(length)
    }

    fn ext(&mut self, length: u64) -> Result<Token<'a>, DecodeError> {
        let kind = i8::from_be_bytes(self.fixed()?);
        Ok(Token::Ext(kind, self.take(length)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_read() {
        let table: &[(&[u8], Token<'_>)] = &[
            (&[0xc0], Token::Nil),
            (&[0xc2], Token::Bool(false)),
            (&[0x7f], Token::UInt(127)),
            (&[0xcd, 1, 0], Token::UInt(256)),
            (
                &[0xcf, 255, 255, 255, 255, 255, 255, 255, 255],
                Token::UInt(u64::MAX),
            ),
            (&[0xff], Token::Int(-1)),
            (&[0xd1, 0xff, 0], Token::Int(-256)),
            (&[0xca, 0x3f, 0x80, 0, 0], Token::Float(1.0)),
            (&[0xa2, b'h', b'i'], Token::Str(b"hi")),
            (&[0xda, 0, 1, b'x'], Token::Str(b"x")),
            (&[0xc5, 0, 1, 9], Token::Bin(&[9])),
            (&[0x92], Token::Array(2)),
            (&[0xdf, 0, 0, 0, 1], Token::Map(1)),
            (&[0xd4, 0xff, 7], Token::Ext(-1, &[7])),
            (&[0xc7, 2, 5, 1, 2], Token::Ext(5, &[1, 2])),
        ];
        for (bytes, token) in table {
            let mut reader = Reader::new(bytes);
            assert_eq!(reader.token(), Ok(*token));
            assert_eq!(reader.finish(), Ok(()));
            for cut in 0..bytes.len() {
                assert_eq!(
                    Reader::new(&bytes[..cut]).token(),
                    Err(DecodeError::Truncated)
                );
            }
        }
        assert!(Reader::new(&[0xc1]).token().is_err());
    }

    #[test]
    fn skip_passes_over_exactly_one_value() {
        // [1, {"a": []}, "b"] and then a 7.
        let bytes = [0x93, 1, 0x81, 0xa1, b'a', 0x90, 0xa1, b'b', 7];
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.skip(), Ok(&bytes[..8]));
        assert_eq!(reader.rest(), &[7]);
    }

    #[test]
    fn nesting_is_bounded_and_lengths_are_not_believed() {
        let deepest = vec![0x91; MAX_DEPTH - 1];
        let mut bytes = deepest.clone();
        bytes.push(0x90);
        assert!(Reader::new(&bytes).skip().is_ok());
        let mut bytes = vec![0x91; 100_000];
        bytes.push(0x90);
        assert_eq!(Reader::new(&bytes).skip(), Err(DecodeError::TooDeep));
        let claims = [0xdf, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(Reader::new(&claims).skip(), Err(DecodeError::Truncated));
    }
}
