//! Log-in and log-out over HTTP: `POST /login`, `GET /login`, `GET /logout`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value as Json, json};

use crate::arriving_body::{self, NotArrived};
use crate::chat::identity::{USERNAME_MAX, random_id, username};
use crate::chat::reply::{Code, Refusal};
use crate::login_session::{self, session_id_of};
use crate::origin::scheme;
use crate::sockets::Sockets;
use crate::store::{Session, StoreError};

/// Bytes of a log-in's body: the longest name with each of its characters escaped is a fifth of it.
const BODY_MAX: usize = 8 * 1024;

/// What a browser says of where a request comes from.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The routes. A log-in from a page of somebody else's is refused by the
/// [origin rules](crate::origin).
pub(crate) fn routes(sockets: Arc<Sockets>) -> Router {
    Router::new()
        .route("/login", get(who_is_logged_in).post(log_in))
        .route("/logout", get(log_out))
        .with_state(sockets)
}

/// How the answer is to be told: to a program, or to a browser that shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Page,
}

impl Form {
    fn of_body(headers: &HeaderMap) -> Option<Self> {
        let content_type = headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let essence = content_type.split(';').next()?.trim();
        match essence.to_ascii_lowercase().as_str() {
            "application/json" => Some(Form::Json),
            "application/x-www-form-urlencoded" => Some(Form::Page),
            _ => None,
        }
    }

    fn accepted(headers: &HeaderMap) -> Self {
        let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
        match accepts {
            Some(accepts) if accepts.contains("application/json") => Form::Json,
            _ => Form::Page,
        }
    }

    fn field_user(self, body: &[u8]) -> Option<String> {
        match self {
            Form::Json => {
                let body: Json = serde_json::from_slice(body).ok()?;
                body.get("user")?.as_str().map(str::to_owned)
            }
            Form::Page => form_urlencoded::parse(body)
                .find(|(name, _)| name == "user")
                .map(|(_, value)| value.into_owned()),
        }
    }

    fn refuse(self, status: StatusCode, code: Code, message: impl Into<String>) -> Response {
        let message = message.into();
        match self {
            Form::Json => {
                let body = json!({ "error": Refusal { code, message } });
                (status, answer(&body)).into_response()
            }
            Form::Page => (status, message + "\n").into_response(),
        }
    }

    fn unavailable(self, error: &StoreError) -> Response {
        tracing::debug!(%error, "the store did not answer a log-in or log-out");
        let message = "the session store cannot be reached; try again in a moment";
        self.refuse(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, message)
    }

    /// Done: `session` is who is logged in now.
    fn done(self, session: Option<&Session>, cookie: HeaderValue) -> Response {
        let mut response = match self {
            Form::Json => answer(&who(session)).into_response(),
            Form::Page => Redirect::to("/").into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(SET_COOKIE, cookie);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

fn answer(body: &Json) -> impl IntoResponse + use<> {
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, body.to_string())
}

fn who(session: Option<&Session>) -> Json {
    match session {
        Some(session) => json!({ "user": session.name, "userID": session.user }),
        None => json!({ "user": null }),
    }
}

/// `{user, userID}` of the session that the request's cookie stands for, or `{user: null}`.
async fn who_is_logged_in(State(sockets): State<Arc<Sockets>>, headers: HeaderMap) -> Response {
    match find(&sockets, &headers).await {
        Ok(session) => answer(&who(session.as_ref())).into_response(),
        Err(error) => Form::Json.unavailable(&error),
    }
}

async fn find(sockets: &Sockets, headers: &HeaderMap) -> Result<Option<Session>, StoreError> {
    match login_session::session_id(headers) {
        Some(id) => sockets.store.find_session(&id).await,
        None => Ok(None),
    }
}

/// A new session, also for who has one: that one ends then, and what was known of its cookie is
/// worth nothing any more. Under the same name it is the same user.
async fn log_in(State(sockets): State<Arc<Sockets>>, request: Request) -> Response {
    let secure = scheme(&request) == "https";
    let (parts, body) = request.into_parts();
    let Some(form) = Form::of_body(&parts.headers) else {
        let expected = "expected application/json or application/x-www-form-urlencoded";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Form::accepted(&parts.headers).refuse(status, Code::Invalid, expected);
    };
    let body = match arriving_body::read(body, BODY_MAX).await {
        Ok(body) => body,
        Err(NotArrived::TooLarge) => {
            let why = format!("a log-in has at most {BODY_MAX} bytes");
            return form.refuse(StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge, why);
        }
        Err(NotArrived::Incomplete) => {
            let why = "the request did not arrive in time";
            return form.refuse(StatusCode::REQUEST_TIMEOUT, Code::Invalid, why);
        }
    };
    let user = form.field_user(&body);
    let Some(name) = user.as_deref().and_then(username) else {
        let expected = format!("user must be a name of 1 to {USERNAME_MAX} characters");
        return form.refuse(StatusCode::BAD_REQUEST, Code::Invalid, expected);
    };
    let (Ok(token), Ok(new_user)) = (random_id(), random_id()) else {
        let why = "the system gives no randomness";
        return form.refuse(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, why);
    };
    let begun = async {
        let previous = find(&sockets, &parts.headers).await?;
        let same_user = previous.as_ref().filter(|session| session.name == name);
        let session = Session {
            id: session_id_of(&token),
            user: same_user.map_or(new_user, |session| session.user.clone()),
            name: name.to_owned(),
        };
        sockets.store.begin_session(&session).await?;
        if let Some(previous) = previous {
            sockets.end_session(&previous.id).await?;
        }
        Ok(session)
    };
    match begun.await {
        Ok(session) => form.done(Some(&session), login_session::set_cookie(&token, secure)),
        Err(error) => form.unavailable(&error),
    }
}

async fn log_out(State(sockets): State<Arc<Sockets>>, request: Request) -> Response {
    let headers = request.headers();
    let form = Form::accepted(headers);
    // By a link on another site's page nobody is logged out. (An image there sends no cookie.)
    if headers
        .get(SEC_FETCH_SITE)
        .is_some_and(|site| site == "cross-site")
    {
        let why = "log out on this site's own page";
        return form.refuse(StatusCode::FORBIDDEN, Code::Invalid, why);
    }
    if let Some(id) = login_session::session_id(headers)
        && let Err(error) = sockets.end_session(&id).await
    {
        return form.unavailable(&error);
    }
    let secure = scheme(&request) == "https";
    form.done(None, login_session::clear_cookie(secure))
}
