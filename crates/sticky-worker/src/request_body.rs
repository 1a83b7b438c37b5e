//! The body of a request as the application gets it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::arriving_body::{ArrivingBody, BodyError};

/// A request body: from the network, or whole in memory for the requests that
/// the worker itself makes and for the few it has looked at.
#[derive(Debug)]
pub enum RequestBody {
    /// Arrives from the network.
    Incoming(ArrivingBody),
    /// In memory; `None` once it was read.
    Full(Option<Bytes>),
}

impl RequestBody {
    pub(crate) fn incoming(body: Incoming) -> Self {
        RequestBody::Incoming(ArrivingBody::new(body))
    }

    /// A body in memory.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        RequestBody::Full(Some(bytes.into()))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            RequestBody::Incoming(body) => Pin::new(body).poll_frame(cx),
            RequestBody::Full(bytes) => {
                let bytes = bytes.take().filter(|bytes| !bytes.is_empty());
                Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Incoming(body) => body.is_end_stream(),
            RequestBody::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Incoming(body) => body.size_hint(),
            RequestBody::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_in_memory_is_given_once_and_says_its_size() {
        let mut body = RequestBody::full("1");
        assert_eq!(body.size_hint().exact(), Some(1));
        assert!(!body.is_end_stream());
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "1");
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }
}
