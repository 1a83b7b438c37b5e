//! Serves HTTP/1.1 on one stream until it ends or is upgraded.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::application::Application;
use crate::client_info::ClientScheme;
use crate::client_stream::ClientStream;
use crate::relay_line::RelayLine;
use crate::sid_layer::SidLayer;
use crate::stream_state::StreamState;

/// The read and write buffers, and so the largest request head, unless a larger
/// one is allowed. Bodies flow through and may have any size.
pub(crate) const BUFFER: usize = 16 << 10;

/// When a worker leaves: for the request of a socket that came just before. The
/// master passes sockets whose first head is complete, so it is there already.
pub(crate) const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// How connections are served; the same for all of them.
pub(crate) fn http(idle_timeout: Duration, head_max: usize) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(idle_timeout)
        .max_buf_size(head_max.max(BUFFER))
        .half_close(false);
    http
}

/// How long a connection may take.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    /// For its first request head, where the master has not seen it.
    pub(crate) first_head: Duration,
    /// Between two requests.
    pub(crate) idle: Duration,
}

/// Serves one stream. An upgraded one lives on in the application's hands.
pub(crate) async fn serve<S: Application>(
    http: Arc<http1::Builder>,
    layer: Arc<SidLayer<S>>,
    stream: ClientStream,
    times: Times,
) {
    let state = stream.state().clone();
    let line = RelayLine::new(times.idle);
    let service = service_fn(|request| {
        let (layer, state, line) = (&layer, &state, &line);
        async move { Ok::<_, Infallible>(layer.handle(state, line, request).await) }
    });
    let connection = http.serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection.with_upgrades());
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => Some(ended),
        () = first_head_missing(&state, times.first_head) => return,
        () = layer.departure.closing() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            // Ended before its first request, a connection would be reset; all
            // answers say `Connection: close` now.
            let first = async {
                if !state.saw_request() {
                    tokio::time::sleep(FIRST_REQUEST_GRACE).await;
                }
            };
            tokio::select! {
                biased;
                ended = connection.as_mut() => ended,
                () = first => {
                    // It is not about to come, then.
                    if !state.saw_request() {
                        return;
                    }
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(stream = state.id, %error, "connection ended");
    }
}

/// Resolves when the first request head of a TLS connection has not come in
/// time. The master passes other connections on with theirs.
async fn first_head_missing(state: &StreamState, time: Duration) {
    if state.origin.handed_over && state.origin.scheme == ClientScheme::Https {
        tokio::time::sleep(time).await;
        if !state.saw_request() {
            return;
        }
    }
    std::future::pending().await
}
