//! Finding users by name: the keys under which each user stands in an index that is ordered by bytes,
//! and what is asked of it with `users_page`.

use std::ops::Range;

use serde_json::Value;

use super::history::page_limit;
use super::identity::is_id;
use super::reply::Refusal;

/// Users in a page when the client names no limit.
pub const PAGE_DEFAULT: usize = 50;

/// Most users in a page.
pub const PAGE_MAX: usize = 200;

/// Words of a name that can be found by their beginning.
const WORDS: usize = 8;

/// Longest query that is looked at, in bytes: the longest name.
const QUERY_MAX: usize = 256;

/// What the first byte of a key says: that it is the whole name, for a list of everybody, or what
/// begins with one of its words.
const WHOLE: char = 'n';
const WORD: char = 'w';

/// The keys of a user of that name: one for the order by name, and one for each word, from there
/// to the end of the name. Without regard to case.
pub fn keys(name: &str) -> Vec<String> {
    let folded = fold(name);
    let whole = format!("{WHOLE}{folded}");
    let words = word_starts(&folded).map(|start| format!("{WORD}{}", &folded[start..]));
    std::iter::once(whole).chain(words).collect()
}

fn fold(name: &str) -> String {
    // What is between a key and the user's id in an index.
    name.trim().to_lowercase().replace(['\0', char::MAX], " ")
}

/// Where words begin: letters or digits after something else than these, or after the other of the two.
fn word_starts(name: &str) -> impl Iterator<Item = usize> {
    #[derive(PartialEq, Clone, Copy)]
    enum Kind {
        Letter,
        Digit,
        Other,
    }
    let kind = |character: char| match character {
        c if c.is_numeric() => Kind::Digit,
        c if c.is_alphanumeric() => Kind::Letter,
        _ => Kind::Other,
    };
    let mut before = None;
    let starts = name.char_indices().filter_map(move |(at, character)| {
        let kind = kind(character);
        let begins = match before.replace(kind) {
            // A name is found by its beginning, whatever that is.
            None => true,
            Some(before) => kind != Kind::Other && kind != before,
        };
        begins.then_some(at)
    });
    starts.take(WORDS)
}

/// What the client asked for with `users_page`, checked: `{after?, query?, limit?}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsersPage {
    /// A user's id: the page begins behind them.
    pub after: Option<String>,
    /// Most users wanted, 1 to [`PAGE_MAX`].
    pub limit: usize,
    /// What the keys of those wanted begin with.
    prefix: String,
}

impl UsersPage {
    /// Checks the payload. A limit beyond [`PAGE_MAX`] is read as [`PAGE_MAX`].
    ///
    /// # Errors
    /// The refusal to acknowledge the event with.
    pub fn from_payload(payload: &Value) -> Result<Self, Refusal> {
        let empty = serde_json::Map::new();
        let fields = match payload {
            Value::Object(fields) => fields,
            Value::Null => &empty,
            _ => return Err(Refusal::invalid("expected {after?, query?, limit?}")),
        };
        let after = match fields.get("after") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) if is_id(id) => Some(id.clone()),
            Some(_) => return Err(Refusal::invalid("after must be a user id")),
        };
        let query = match fields.get("query") {
            None | Some(Value::Null) => "",
            Some(Value::String(query)) if query.len() <= QUERY_MAX => query,
            Some(_) => return Err(Refusal::invalid("query must be a text as long as a name")),
        };
        let limit = page_limit(fields, PAGE_DEFAULT, PAGE_MAX)?;
        let prefix = match fold(query).as_str() {
            "" => WHOLE.to_string(),
            query => format!("{WORD}{query}"),
        };
        Ok(Self {
            after,
            limit,
            prefix,
        })
    }

    /// The key under which a user of that name comes in this page's order: the first of those wanted.
    /// None if the user is not wanted.
    pub fn key_of(&self, name: &str) -> Option<String> {
        let keys = keys(name).into_iter();
        keys.filter(|key| key.starts_with(&self.prefix)).min()
    }

    /// The keys of those wanted, in the order of their bytes: from the first up to before the second.
    pub fn range(&self) -> Range<String> {
        // Behind all that begins with the prefix: no name has the last character that there is.
        self.prefix.clone()..format!("{}{}", self.prefix, char::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::Code;
    use super::*;
    use serde_json::json;

    fn page(payload: Value) -> UsersPage {
        UsersPage::from_payload(&payload).unwrap()
    }

    #[test]
    fn a_name_is_found_by_each_of_its_words() {
        let table: [(&str, &[&str]); 6] = [
            ("Ada", &["nada", "wada"]),
            (
                "Ada Lovelace",
                &["nada lovelace", "wada lovelace", "wlovelace"],
            ),
            ("user-0750", &["nuser-0750", "wuser-0750", "w0750"]),
            ("user12b", &["nuser12b", "wuser12b", "w12b", "wb"]),
            ("  ÜNAL ", &["nünal", "wünal"]),
            ("(x)", &["n(x)", "w(x)", "wx)"]),
        ];
        for (name, expected) in table {
            assert_eq!(keys(name), expected, "{name}");
        }
        assert_eq!(keys(&"a ".repeat(60)).len(), 1 + WORDS);
        assert!(!keys("a\0b")[0].contains('\0'));
    }

    #[test]
    fn a_request_is_taken_or_refused() {
        let table = [
            (json!({}), Ok((None, PAGE_DEFAULT))),
            (json!(null), Ok((None, PAGE_DEFAULT))),
            (json!({"after": "u1", "limit": 3}), Ok((Some("u1"), 3))),
            (
                json!({"after": null, "query": null, "limit": 9000}),
                Ok((None, PAGE_MAX)),
            ),
            (json!({"after": "a b"}), Err(Code::Invalid)),
            (json!({"after": 5}), Err(Code::Invalid)),
            (json!({"query": 5}), Err(Code::Invalid)),
            (
                json!({"query": "x".repeat(QUERY_MAX + 1)}),
                Err(Code::Invalid),
            ),
            (json!({"limit": 0}), Err(Code::Invalid)),
            (json!({"limit": "3"}), Err(Code::Invalid)),
            (json!([]), Err(Code::Invalid)),
        ];
        for (payload, expected) in table {
            let got = UsersPage::from_payload(&payload);
            let got = got.as_ref().map(|p| (p.after.as_deref(), p.limit));
            assert_eq!(got.map_err(|refusal| refusal.code), expected, "{payload}");
        }
    }

    #[test]
    fn who_is_wanted_comes_under_the_first_key_that_fits() {
        let everybody = page(json!({"query": "  "}));
        assert_eq!(
            everybody.key_of("Ada Lovelace").as_deref(),
            Some("nada lovelace")
        );
        let an = page(json!({"query": "AN"}));
        assert_eq!(an.key_of("Anna Anders").as_deref(), Some("wanders"));
        assert_eq!(an.key_of("Hanna"), None);
    }

    #[test]
    fn the_range_has_what_begins_so_and_nothing_else() {
        let range = page(json!({"query": "an"})).range();
        let has = |key: &str| *range.start <= *key && *key < *range.end;
        assert!(has("wan") && has("wanna") && has("wan\u{fffff}"));
        assert!(!has("wam") && !has("wao") && !has("nan"));
    }
}
