//! A request body from the network, which must keep arriving: a client that
//! begins one and then sends nothing would hold its connection and its session
//! for ever.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;
use tokio::time::Sleep;

/// Longest pause in a body; any byte ends it. As long as the JavaScript server
/// waits for a client's pong.
pub const BODY_PAUSE: Duration = Duration::from_secs(20);

/// Why a body ended early.
#[derive(Debug, Error)]
pub enum BodyError {
    /// The connection failed, or what came is not HTTP.
    #[error(transparent)]
    Network(#[from] hyper::Error),
    /// Nothing came for [`BODY_PAUSE`].
    #[error("the request body has stopped arriving")]
    Stalled,
}

/// A body that fails when it pauses for too long.
#[derive(Debug)]
pub struct ArrivingBody<B = Incoming> {
    body: B,
    /// Runs while nothing comes; most bodies are there at once and need none.
    pause: Option<Pin<Box<Sleep>>>,
}

impl<B> ArrivingBody<B> {
    pub(crate) fn new(body: B) -> Self {
        ArrivingBody { body, pause: None }
    }
}

impl<B, E> Body for ArrivingBody<B>
where
    B: Body<Data = Bytes, Error = E> + Unpin,
    BodyError: From<E>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.pause = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)));
        }
        let begin = || Box::pin(tokio::time::sleep(BODY_PAUSE));
        ready!(this.pause.get_or_insert_with(begin).as_mut().poll(cx));
        Poll::Ready(Some(Err(BodyError::Stalled)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::BodyExt;
    use tokio::sync::mpsc;
    use tokio::time::{advance, pause};

    use super::*;

    impl From<Infallible> for BodyError {
        fn from(never: Infallible) -> Self {
            match never {}
        }
    }

    struct Channel(mpsc::Receiver<Bytes>);

    impl Body for Channel {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let bytes = ready!(self.0.poll_recv(cx));
            Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    #[tokio::test]
    async fn a_slow_body_passes_and_one_that_stops_fails() {
        pause();
        let (sender, receiver) = mpsc::channel(1);
        let mut body = ArrivingBody::new(Channel(receiver));
        let slow = tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(BODY_PAUSE / 10 * 9).await;
                sender.send(Bytes::from_static(b"x")).await.unwrap();
            }
            sender
        });
        for _ in 0..5 {
            body.frame().await.unwrap().unwrap();
        }
        let _sender = slow.await.unwrap();
        let stalled = tokio::spawn(async move { body.frame().await });
        advance(BODY_PAUSE).await;
        let end = stalled.await.unwrap();
        assert!(matches!(end, Some(Err(BodyError::Stalled))), "{end:?}");
    }
}
