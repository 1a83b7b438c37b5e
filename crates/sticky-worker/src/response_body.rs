//! The body of an answer: the application's own, one that was read and maybe
//! changed, or one that comes from another worker.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Any failure while a body is sent.
pub(crate) type BodyError = Box<dyn Error + Send + Sync>;

pub(crate) enum ResponseBody<B> {
    /// The application's, with what was already read of it.
    App { read: Option<Bytes>, rest: B },
    /// Whole in memory.
    Full(Option<Bytes>),
    /// Another worker's.
    Relayed(Incoming),
}

/// What reading an application's body into memory gave.
pub(crate) enum Taken<B> {
    /// All of it.
    Whole(Bytes),
    /// It is larger than the limit, waits, or has trailers: to be passed on.
    Partly(ResponseBody<B>),
}

impl<B> ResponseBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    pub(crate) fn app(body: B) -> Self {
        ResponseBody::App {
            read: None,
            rest: body,
        }
    }

    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        ResponseBody::Full(Some(bytes.into()))
    }

    /// Reads a body of at most `limit` bytes that is in memory already. Never
    /// waits: an answer that is still being made is passed on as it comes.
    pub(crate) fn take_ready(mut body: B, limit: u64) -> Taken<B> {
        let mut read = BytesMut::new();
        let mut first = Bytes::new();
        while !body.is_end_stream() {
            let fits = body.size_hint().upper().is_some_and(|left| left <= limit);
            let frame = if fits {
                body.frame().now_or_never()
            } else {
                None
            };
            match frame {
                Some(Some(Ok(frame))) if frame.is_data() => {
                    let data = frame.into_data().unwrap_or_default();
                    // One frame is the rule: that one is not copied.
                    if first.is_empty() && read.is_empty() {
                        first = data;
                    } else {
                        read.extend_from_slice(&std::mem::take(&mut first));
                        read.extend_from_slice(&data);
                    }
                }
                Some(None) => break,
                _ => {
                    read.extend_from_slice(&first);
                    return Taken::Partly(ResponseBody::App {
                        read: (!read.is_empty()).then(|| read.freeze()),
                        rest: body,
                    });
                }
            }
        }
        if first.is_empty() {
            first = read.freeze();
        }
        Taken::Whole(first)
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            ResponseBody::App { read, rest } => match read.take() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Pin::new(rest)
                    .poll_frame(cx)
                    .map(|frame| frame.map(|frame| frame.map_err(Into::into))),
            },
            ResponseBody::Full(bytes) => {
                let bytes = bytes.take().filter(|bytes| !bytes.is_empty());
                Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
            ResponseBody::Relayed(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::App { read, rest } => read.is_none() && rest.is_end_stream(),
            ResponseBody::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            ResponseBody::Relayed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::App { read: None, rest } => rest.size_hint(),
            ResponseBody::App {
                read: Some(read),
                rest,
            } => {
                let rest = rest.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower() + read.len() as u64);
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper + read.len() as u64);
                }
                hint
            }
            ResponseBody::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            ResponseBody::Relayed(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{Full, StreamBody};

    use super::*;

    fn frames(parts: &[&'static str]) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let frames: Vec<_> = parts
            .iter()
            .map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes()))))
            .collect();
        StreamBody::new(futures_util::stream::iter(frames))
    }

    #[tokio::test]
    async fn one_ready_frame_is_taken_whole() {
        let Taken::Whole(bytes) = ResponseBody::take_ready(Full::new(Bytes::from("abc")), 8) else {
            panic!("not whole")
        };
        assert_eq!(bytes, "abc");
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_or_of_unknown_size_is_passed_on_unread() {
        let Taken::Partly(body) = ResponseBody::take_ready(Full::new(Bytes::from("abcdef")), 5)
        else {
            panic!("whole")
        };
        assert_eq!(body.size_hint().exact(), Some(6));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcdef");
        let Taken::Partly(body) = ResponseBody::take_ready(frames(&["ab", "cd"]), 5) else {
            panic!("whole")
        };
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcd");
    }
}
