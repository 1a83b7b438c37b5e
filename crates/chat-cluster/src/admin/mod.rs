//! `--admin`: what monitoring may ask a master, by HTTP. Whoever reaches the address may ask, so it
//! is one of its own; nothing can be changed there, and no message, user or secret is shown.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use common::exhaustion;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use sticky_master::Listener;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, watch};

use crate::operator::Operator;

mod metrics;

/// A request head comes within that time, and the next one after an answer.
const HEAD_TIME: Duration = Duration::from_secs(15);

/// Connections at a time: a few monitors, with room for some that hang.
const CONNECTIONS: usize = 64;

/// When no connection can be taken (no descriptors), the next try is after that.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is known at the address.
const PATHS: &str = "/metrics, /status, /readyz, /healthz\n";

/// Who answers: the master at present, and whether it was asked to stop.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) operator: watch::Receiver<Operator>,
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Admin {
    /// Answers; goes on for ever.
    pub(crate) async fn serve(self, listener: Listener) {
        let free = Arc::new(Semaphore::new(CONNECTIONS));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
        loop {
            // Never closed.
            let Ok(permit) = free.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((fd, peer)) => {
                    let (admin, http) = (self.clone(), http.clone());
                    tokio::spawn(async move {
                        let ended = match peer {
                            Some(_) => admin.attend(&http, tcp(fd)).await,
                            None => admin.attend(&http, unix(fd)).await,
                        };
                        if let Err(error) = ended {
                            tracing::debug!(%error, "admin connection");
                        }
                        drop(permit);
                    });
                }
                Err(error) if exhaustion::is_exhaustion(&error) => {
                    tracing::warn!(%error, "cannot take an admin connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Err(error) => tracing::debug!(%error, "admin connection"),
            }
        }
    }

    async fn attend<S>(&self, http: &http1::Builder, stream: io::Result<S>) -> anyhow::Result<()>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let service = service_fn(async |request| Ok::<_, Infallible>(self.answer(&request)));
        let stream = TokioIo::new(stream?);
        Ok(http.serve_connection(stream, service).await?)
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        let operator = self.operator.borrow().clone();
        match request.uri().path() {
            "/metrics" => match metrics::text(operator.master()) {
                Ok(metrics) => typed(metrics::CONTENT_TYPE, metrics),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
            },
            "/status" => match operator.whole_status().line() {
                Ok(status) => typed("application/json", status),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
            },
            "/healthz" => whether(operator.serves(), "ok\n", "no worker can serve\n"),
            "/readyz" if *self.stopping.borrow() => whether(false, "", "stopping\n"),
            "/readyz" => whether(operator.serves(), "ready\n", "no worker is ready\n"),
            _ => text(StatusCode::NOT_FOUND, PATHS),
        }
    }
}

fn tcp(fd: OwnedFd) -> io::Result<TcpStream> {
    TcpStream::from_std(fd.into())
}

fn unix(fd: OwnedFd) -> io::Result<UnixStream> {
    UnixStream::from_std(fd.into())
}

fn whether(well: bool, yes: &str, no: &str) -> Response<String> {
    match well {
        true => text(StatusCode::OK, yes),
        false => text(StatusCode::SERVICE_UNAVAILABLE, no),
    }
}

fn text(status: StatusCode, body: &str) -> Response<String> {
    let mut response = typed("text/plain; charset=utf-8", body.to_owned());
    *response.status_mut() = status;
    response
}

fn typed(content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
