//! Answers that the worker gives instead of the application, as the JavaScript
//! server words them, and the mending of the application's own ones.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body::Body;

use crate::response_body::{BodyError, ResponseBody, Taken};

/// The Engine.IO error code of a session that is not, or no longer, there.
const SESSION_UNKNOWN: &[u8] = br#"{"code":1,"#;

/// Error bodies are far smaller; a larger one is the application's own.
const ERROR_BODY_LIMIT: u64 = 512;

/// Why a request does not reach the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Neither polling nor websocket.
    TransportUnknown,
    /// No such session here.
    SessionUnknown,
    /// A WebSocket transport without an upgrade.
    BadRequest,
    /// This worker opens no sessions any more, or has no descriptor left: come
    /// again.
    Unavailable,
}

impl Refusal {
    pub(crate) fn response<B>(self) -> Response<ResponseBody<B>> {
        let (status, body) = match self {
            Refusal::TransportUnknown => (
                StatusCode::BAD_REQUEST,
                r#"{"code":0,"message":"Transport unknown"}"#,
            ),
            Refusal::SessionUnknown => (
                StatusCode::BAD_REQUEST,
                r#"{"code":1,"message":"Session ID unknown"}"#,
            ),
            Refusal::BadRequest => (
                StatusCode::BAD_REQUEST,
                r#"{"code":3,"message":"Bad request"}"#,
            ),
            Refusal::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, ""),
        };
        let mut response = Response::new(ResponseBody::Full(Some(Bytes::from_static(
            body.as_bytes(),
        ))));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if self == Refusal::Unavailable {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        } else {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        response
    }
}

/// An application's answer on the Engine.IO path, and what it says of the
/// session.
pub(crate) struct Mended<B> {
    pub(crate) response: Response<ResponseBody<B>>,
    /// The application does not know the session.
    pub(crate) session_unknown: bool,
}

/// Writes the codes of socketioxide's error bodies as numbers, as JavaScript
/// clients and servers do; passes anything else on.
pub(crate) fn mend<B>(response: Response<B>) -> Mended<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    if response.status() != StatusCode::BAD_REQUEST || !is_json(response.headers()) {
        return Mended {
            response: response.map(ResponseBody::app),
            session_unknown: false,
        };
    }
    let (mut parts, body) = response.into_parts();
    let mut session_unknown = false;
    let body = match ResponseBody::take_ready(body, ERROR_BODY_LIMIT) {
        Taken::Partly(body) => body,
        Taken::Whole(bytes) => {
            let bytes = code_as_number(bytes);
            session_unknown = bytes.starts_with(SESSION_UNKNOWN);
            parts.headers.insert(CONTENT_LENGTH, bytes.len().into());
            ResponseBody::full(bytes)
        }
    };
    Mended {
        response: Response::from_parts(parts, body),
        session_unknown,
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

/// `{"code":"1",…` becomes `{"code":1,…`.
fn code_as_number(body: Bytes) -> Bytes {
    let Some(rest) = body.strip_prefix(br#"{"code":""#) else {
        return body;
    };
    let Some(digits) = rest.iter().position(|byte| !byte.is_ascii_digit()) else {
        return body;
    };
    if digits == 0 || rest[digits] != b'"' {
        return body;
    }
    [br#"{"code":"#, &rest[..digits], &rest[digits + 1..]]
        .concat()
        .into()
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[test]
    fn codes_become_numbers_and_nothing_else_changes() {
        for (before, after) in [
            (
                r#"{"code":"1","message":"x"}"#,
                r#"{"code":1,"message":"x"}"#,
            ),
            (r#"{"code":"12","m":"\"1\""}"#, r#"{"code":12,"m":"\"1\""}"#),
            (r#"{"code":1,"message":"x"}"#, r#"{"code":1,"message":"x"}"#),
            (
                r#"{"code":"","message":"x"}"#,
                r#"{"code":"","message":"x"}"#,
            ),
            (r#"{"code":"1a"}"#, r#"{"code":"1a"}"#),
            (r#"{"code":"1"#, r#"{"code":"1"#),
            ("", ""),
        ] {
            assert_eq!(code_as_number(Bytes::from(before)), after);
        }
    }

    #[tokio::test]
    async fn a_mended_answer_has_the_right_length_and_says_what_it_is() {
        let body = Bytes::from(r#"{"code":"1","message":"Session ID unknown"}"#);
        let response = Response::builder()
            .status(400)
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, body.len())
            .body(Full::new(body))
            .unwrap();
        let mended = mend(response);
        assert!(mended.session_unknown);
        assert_eq!(mended.response.headers()[CONTENT_LENGTH], "41");
        let body = mended.response.into_body().collect().await.unwrap();
        assert_eq!(
            body.to_bytes(),
            r#"{"code":1,"message":"Session ID unknown"}"#
        );
    }
}
