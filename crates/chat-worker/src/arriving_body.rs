//! The body of a request, read whole: bounded in bytes and in time.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use tokio::time::timeout;

/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotArrived {
    /// It has more bytes than are taken.
    TooLarge,
    /// It takes too long, or its connection broke.
    Incomplete,
}

/// Reads at most `max` bytes.
pub(crate) async fn read(body: Body, max: usize) -> Result<Bytes, NotArrived> {
    let Ok(read) = timeout(PATIENCE, to_bytes(body, max)).await else {
        return Err(NotArrived::Incomplete);
    };
    read.map_err(|error| {
        let cause = std::error::Error::source(&error);
        match cause.is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>()) {
            true => NotArrived::TooLarge,
            false => NotArrived::Incomplete,
        }
    })
}
