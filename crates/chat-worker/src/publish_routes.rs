//! Publishing from outside: `POST /api/publish` with a token, and the document that describes it.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use ring::digest::{Digest, SHA256, digest};
use serde_json::json;

use crate::arriving_body::{self, NotArrived};
use crate::chat::outside::OutsideEvent;
use crate::sockets::Sockets;
use crate::sockets::outside::Published;

/// An OpenAPI 3.1 document.
const DOCUMENT: &str = include_str!("openapi.json");

/// Who may publish, and how much at once.
pub(crate) struct Publishing {
    /// Digests, so that comparing tells nothing of how much of a token was right.
    tokens: Vec<Digest>,
    /// Bytes of a request's body.
    body_max: usize,
}

impl Publishing {
    /// Without tokens nobody may.
    pub(crate) fn new(tokens: &[String], body_max: usize) -> Self {
        let digests = tokens.iter().map(|token| digest(&SHA256, token.as_bytes()));
        Self {
            tokens: digests.collect(),
            body_max,
        }
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let token = value.and_then(|value| {
            let (scheme, token) = value.split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
        });
        let token = token.map(|token| digest(&SHA256, token));
        token.is_some_and(|token| {
            let known = self.tokens.iter();
            known.fold(false, |found, known| {
                found | (known.as_ref() == token.as_ref())
            })
        })
    }
}

/// What the routes share.
#[derive(Clone)]
struct Context {
    sockets: Arc<Sockets>,
    publishing: Arc<Publishing>,
}

/// The routes.
pub(crate) fn routes(sockets: Arc<Sockets>, publishing: Publishing) -> Router {
    let document = [(CONTENT_TYPE, "application/json")];
    let router = Router::new().route("/api/openapi.json", get(async move || (document, DOCUMENT)));
    if publishing.tokens.is_empty() {
        let disabled = async || refuse(StatusCode::NOT_FOUND, "publishing needs a token to be set");
        return router.route("/api/publish", post(disabled));
    }
    let context = Context {
        sockets,
        publishing: Arc::new(publishing),
    };
    router.route("/api/publish", post(publish).with_state(context))
}

async fn publish(State(context): State<Context>, request: Request) -> Response {
    let Context {
        sockets,
        publishing,
    } = context;
    // First of all: a stranger's body is not read.
    if !publishing.knows(request.headers()) {
        let mut answer = refuse(StatusCode::UNAUTHORIZED, "the token is missing or wrong");
        let headers = answer.headers_mut();
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return answer;
    }
    let body = match arriving_body::read(request.into_body(), publishing.body_max).await {
        Ok(body) => body,
        Err(NotArrived::TooLarge) => {
            let why = format!("the body has more than {} bytes", publishing.body_max);
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, &why);
        }
        Err(NotArrived::Incomplete) => {
            return refuse(StatusCode::BAD_REQUEST, "the body did not arrive in time");
        }
    };
    let event = match OutsideEvent::from_json(&body) {
        Ok(event) => event,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, &why),
    };
    match sockets.publish_to_room(&event).await {
        Published::Everywhere => answer(StatusCode::OK, &json!({ "success": true })),
        Published::NoNamespace => refuse(StatusCode::NOT_FOUND, "there is no such namespace"),
        Published::HereAtMost => {
            let why = "the bus did not confirm it: not every worker may have heard it";
            refuse(StatusCode::SERVICE_UNAVAILABLE, why)
        }
        Published::Never(why) => refuse(StatusCode::BAD_REQUEST, &why),
    }
}

fn refuse(status: StatusCode, error: &str) -> Response {
    answer(status, &json!({ "success": false, "error": error }))
}

fn answer(status: StatusCode, body: &serde_json::Value) -> Response {
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
    ];
    (status, headers, body.to_string()).into_response()
}
