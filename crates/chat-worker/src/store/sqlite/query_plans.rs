//! How SQLite finds what each statement asks for: by an index, never by looking at every message,
//! session or socket there is. SQLite plans by the schema alone here (nothing runs `ANALYZE`), so
//! the plans are the same however much is stored.

use std::fmt::Write;
use std::path::Path;

use rusqlite::Connection;

use super::{
    Durability, database, export, lobby, messages, presence, roster, sweep, trim, upkeep, writer,
};

/// Where people can read them.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/query-plans.md");

/// May look at every row of a table besides `recent`, `instances` and `sweeps`, which are small:
/// what is asked once, for an export or a new version.
const WHOLE_TABLES: [&str; 2] = ["USERS_OF_SESSIONS", "SESSION_COUNT"];

macro_rules! statements {
    ($($module:ident: $($name:ident),+;)+) => {
        &[$($((stringify!($module), stringify!($name), $module::$name)),+),+]
    };
}

const STATEMENTS: &[(&str, &str, &str)] = statements! {
    messages: TAIL_OF_RECENT, TAIL_OF_MOVED, KNOWN_RECENT, KNOWN_MOVED, INSERT, TIMES_OF_RECENT,
        LOG_OF, REPLAY_RECENT, REPLAY_MOVED, BEFORE_RECENT, BEFORE_MOVED, PAGE_RECENT, PAGE_MOVED,
        FIRST_RECENT, OLD_RECENT, MOVED_FROM;
    writer: NOTE_LIFE;
    presence: SESSION, CONNECTED_NAME, INSTANCES, ADD_INSTANCE, REMOVE_INSTANCE, ADD_SOCKET, REMOVE_SOCKET,
        SOCKETS_OF_INSTANCE, WRITE_SESSION, END_SESSION, ENDED, RENEW_SESSION;
    roster: NEXT_VERSION, COUNT_USERS, STATE, TOUCH_USER, ADD_USER, ADD_NAME, REMOVE_USER, REMOVE_NAME, USER_NAME,
        HAS_SOCKETS, LOOK_UP, RECENT, NAMES;
    database: USERS_OF_SESSIONS;
    lobby: KNOWN_LINE, ADD_LINE, LINES, NEWEST_LINE, OLD_LINES, REMOVE_LINES;
    upkeep: SPAN_OF_RECENT, OLDEST, MOVE_IN, MOVE_OUT, MOVED, LOG, NEW_LOG, EXTEND_LOG;
    sweep: END_LOG, TO_SWEEP, EXPIRED_LOGS, EXPIRED_SESSIONS, REMOVE_SESSION, NEXT_SWEEP, SENT,
        RECEIVED, SWEPT_TO, SWEPT, REMOVE_MESSAGE;
    trim: OLDEST_KEPT, OLD_SENT, OLD_RECEIVED, NOT_SENT, NOT_RECEIVED, REMOVE;
    export: NOTED, SESSION_COUNT, SESSIONS, LOGS, MESSAGES;
};

/// The steps of a plan, indented as they depend on each other.
fn plan(connection: &Connection, sql: &str) -> Vec<String> {
    let mut statement = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
        .unwrap();
    let mut depths = std::collections::HashMap::from([(0, 0)]);
    let mut steps = Vec::new();
    // Parameters count as NULL; the plan does not depend on them.
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().unwrap() {
        let (id, parent): (i64, i64) = (row.get(0).unwrap(), row.get(1).unwrap());
        let depth: usize = depths[&parent];
        depths.insert(id, depth + 1);
        let detail: String = row.get(3).unwrap();
        steps.push(format!("{}{detail}", "  ".repeat(depth)));
    }
    steps
}

fn document(connection: &Connection) -> String {
    let mut text = "# Query plans of the embedded store\n\n\
        What SQLite says (`EXPLAIN QUERY PLAN`) of each statement that it is asked to run. `SEARCH` finds rows by an \
        index or a\nkey; `SCAN` looks at all of them. A test fails when a plan is not the one below, or scans a \
        table that grows with what is\nstored.\n"
        .to_owned();
    let mut module = "";
    for (of, name, sql) in STATEMENTS {
        if *of != module {
            module = of;
            write!(text, "\n## {module}\n").unwrap();
        }
        let sql: Vec<&str> = sql.lines().map(str::trim_end).collect();
        let sql = sql.join("\n");
        write!(text, "\n`{name}`\n```sql\n{}\n```\n", sql.trim()).unwrap();
        let steps = plan(connection, &sql);
        if !steps.is_empty() {
            write!(text, "```text\n{}\n```\n", steps.join("\n")).unwrap();
        }
    }
    text
}

#[test]
fn each_statement_finds_its_rows_by_an_index_and_the_documentation_shows_how() {
    let dir = tempfile::tempdir().unwrap();
    let connection = database::open(dir.path(), Durability::Normal).unwrap();
    for (_, name, sql) in STATEMENTS {
        for step in plan(&connection, sql) {
            let scanned = step.trim_start().strip_prefix("SCAN ");
            let table = scanned.map(|rest| rest.split(' ').next().unwrap_or_default());
            let whole = table.is_some_and(|table| {
                [
                    "sessions", "sockets", "messages", "logs", "lobby", "users", "names",
                ]
                .contains(&table)
            });
            assert!(!whole || WHOLE_TABLES.contains(name), "{name}: {step}");
        }
    }
    let found = document(&connection);
    if std::env::var_os("UPDATE_QUERY_PLANS").is_some() {
        std::fs::create_dir_all(Path::new(DOCUMENT).parent().unwrap()).unwrap();
        std::fs::write(DOCUMENT, &found).unwrap();
    }
    let documented = std::fs::read_to_string(DOCUMENT).unwrap_or_default();
    assert!(
        documented == found,
        "docs/query-plans.md is not true; UPDATE_QUERY_PLANS=1 writes it anew:\n{found}"
    );
}
