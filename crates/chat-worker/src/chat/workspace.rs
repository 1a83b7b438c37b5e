//! Workspace rooms: what a client may ask for with `application`, and what it is answered.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::outside::room_code;

/// Longest id of a workspace or an application, in bytes.
pub const WORKSPACE_ID_MAX: usize = 120;

/// Who may subscribe to a workspace's rooms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkspacePolicy {
    /// Everyone who is logged in.
    #[default]
    Open,
    /// The users in the workspace's set in Redis.
    RedisSet,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Subscription {
    /// To hear the room.
    Subscribe,
    /// To hear it no longer.
    Unsubscribe,
}

/// A request that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceRequest {
    /// What is asked for.
    pub subscription: Subscription,
    /// The workspace.
    pub workspace: String,
    /// The application in it.
    pub app: String,
}

impl WorkspaceRequest {
    /// Reads `{event, payload: {appId, workspaceId}}`.
    ///
    /// # Errors
    /// What is wrong with it, for who wrote it.
    pub fn from_payload(request: &Value) -> Result<Self, String> {
        let subscription = request.get("event").unwrap_or(&Value::Null);
        let subscription = Subscription::deserialize(subscription)
            .map_err(|_| "event must be SUBSCRIBE or UNSUBSCRIBE")?;
        let id = |field: &str| {
            let id = request.get("payload")?.get(field)?.as_str()?;
            (id.len() <= WORKSPACE_ID_MAX && room_code(id).is_some()).then(|| id.to_owned())
        };
        let expected = |field| {
            format!("{field} must be 1 to {WORKSPACE_ID_MAX} bytes without control characters")
        };
        // The colon ends it in the room's name: with one in it, it could be another's room.
        let workspace = id("workspaceId").filter(|id| !id.contains(':'));
        Ok(Self {
            subscription,
            workspace: workspace.ok_or_else(|| expected("workspaceId") + " or colons")?,
            app: id("appId").ok_or_else(|| expected("appId"))?,
        })
    }

    /// The room's name: `<workspaceId>:<appId>`.
    pub fn room(&self) -> String {
        format!("{}:{}", self.workspace, self.app)
    }
}

/// The answer: `{status, event, payload, message?}`, the two in the middle as they were asked.
#[derive(Debug, Serialize)]
pub struct WorkspaceAnswer<'a> {
    status: &'static str,
    event: &'a Value,
    payload: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

impl<'a> WorkspaceAnswer<'a> {
    /// To `request`: done, or why not.
    pub fn new(request: &'a Value, done: &'a Result<(), String>) -> Self {
        let field = |name| request.get(name).unwrap_or(&Value::Null);
        Self {
            status: if done.is_ok() { "SUCCESS" } else { "ERROR" },
            event: field("event"),
            payload: field("payload"),
            message: done.as_ref().err().map(String::as_str),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_names_a_room_or_is_refused() {
        let ask = |event: &str, payload: Value| json!({"event": event, "payload": payload});
        let ids = |workspace: &str, app: &str| json!({"workspaceId": workspace, "appId": app});
        let table = [
            (
                ask("SUBSCRIBE", ids("w", "a")),
                Ok((Subscription::Subscribe, "w:a")),
            ),
            (
                ask("UNSUBSCRIBE", ids("w", "a")),
                Ok((Subscription::Unsubscribe, "w:a")),
            ),
            (
                ask("SUBSCRIBE", ids("ü 1", "a:b")),
                Ok((Subscription::Subscribe, "ü 1:a:b")),
            ),
            (ask("SUBSCRIBE", ids("w:x", "a")), Err("workspaceId")),
            (ask("SUBSCRIBE", ids("", "a")), Err("workspaceId")),
            (
                ask("SUBSCRIBE", ids(&"w".repeat(121), "a")),
                Err("workspaceId"),
            ),
            (ask("SUBSCRIBE", ids("w", "")), Err("appId")),
            (ask("SUBSCRIBE", ids("w", "a\u{0}")), Err("appId")),
            (
                ask("SUBSCRIBE", json!({"workspaceId": "w", "appId": 5})),
                Err("appId"),
            ),
            (ask("SUBSCRIBE", json!(null)), Err("workspaceId")),
            (ask("subscribe", ids("w", "a")), Err("event")),
            (json!({"payload": ids("w", "a")}), Err("event")),
            (json!("SUBSCRIBE"), Err("event")),
            (json!(null), Err("event")),
        ];
        for (request, expected) in table {
            match (WorkspaceRequest::from_payload(&request), expected) {
                (Ok(got), Ok(expected)) => assert_eq!((got.subscription, &*got.room()), expected),
                (Err(why), Err(field)) => assert!(why.starts_with(field), "{request}: {why}"),
                (got, _) => panic!("{request}: {got:?}"),
            }
        }
    }

    #[test]
    fn an_answer_repeats_what_was_asked() {
        let request = json!({"event": "SUBSCRIBE", "payload": {"appId": "a", "more": 1}});
        let done = serde_json::to_value(WorkspaceAnswer::new(&request, &Ok(()))).unwrap();
        let expected = json!({"status": "SUCCESS", "event": "SUBSCRIBE", "payload": {"appId": "a", "more": 1}});
        assert_eq!(done, expected);
        let why = Err("no".to_owned());
        let refused = serde_json::to_value(WorkspaceAnswer::new(&json!(5), &why)).unwrap();
        let expected = json!({"status": "ERROR", "event": null, "payload": null, "message": "no"});
        assert_eq!(refused, expected);
    }
}
