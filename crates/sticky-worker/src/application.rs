//! The service that the worker serves, and the one request the worker makes of
//! it by itself.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Mutex;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use tower_service::Service;

use crate::client_info::{ClientAddress, ClientScheme};
use crate::request_body::RequestBody;
use crate::response_body::BodyError;
use crate::sessions::CloseEngineSession;

/// What can be served: any cloneable tower service that takes
/// [`RequestBody`] and cannot fail, such as an axum `Router`. Implemented for
/// all of them; `Body` is the body of its answers.
pub trait Application:
    Service<
        Request<RequestBody>,
        Response = Response<Self::Body>,
        Error = Infallible,
        Future = Self::Answer,
    > + Clone
    + Send
    + Sync
    + 'static
{
    /// The body of its answers.
    type Body: Body<Data = Bytes, Error = Self::BodyError> + Send + Unpin + 'static;
    /// What may go wrong while an answer is sent.
    type BodyError: Into<BodyError>;
    /// Its answer under way.
    type Answer: Future<Output = Result<Response<Self::Body>, Infallible>> + Send + 'static;
}

impl<S, B> Application for S
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    type Body = B;
    type BodyError = B::Error;
    type Answer = S::Future;
}

/// Has `application` answer one request.
pub(crate) async fn answer<S: Application>(
    mut application: S,
    request: Request<RequestBody>,
) -> Response<S::Body> {
    let Ok(()) = poll_fn(|cx| application.poll_ready(cx)).await;
    let Ok(response) = application.call(request).await;
    response
}

/// Closes engine sessions with the Engine.IO close packet, posted from within.
pub(crate) struct InProcessClose<S> {
    application: Mutex<S>,
    /// The Engine.IO path without a slash at its end.
    path: Box<str>,
}

impl<S> InProcessClose<S> {
    pub(crate) fn new(application: S, path: &str) -> Self {
        InProcessClose {
            application: Mutex::new(application),
            path: path.into(),
        }
    }
}

impl<S: Application> CloseEngineSession for InProcessClose<S> {
    fn close(&self, engine_sid: &str) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let uri = format!("{}/?EIO=4&transport=polling&sid={engine_sid}", self.path);
        let application = self.application.lock().expect("never poisoned").clone();
        Box::pin(async move {
            let Ok(uri) = Uri::try_from(uri) else { return };
            let mut request = Request::new(RequestBody::full("1"));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = uri;
            let headers = request.headers_mut();
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("1"));
            let text = HeaderValue::from_static("text/plain;charset=UTF-8");
            headers.insert(CONTENT_TYPE, text);
            request.extensions_mut().insert(ClientAddress(None));
            request.extensions_mut().insert(ClientScheme::Http);
            let status = answer(application, request).await.status();
            // 400: the session was gone already.
            if status != StatusCode::OK && status != StatusCode::BAD_REQUEST {
                tracing::warn!(%status, "the application did not close a session it was asked to");
            }
        })
    }
}
