//! A file of options: TOML whose keys are the names of the flags.

use std::path::{Path, PathBuf};

use clap::Command;
use toml::de::{DeTable, DeValue};

use crate::bounded_file;

/// Flags that are of no use in a file.
const NOT_IN_FILES: [&str; 4] = ["config", "help", "preflight", "version"];

/// How like a known key an unknown one must be to be taken for it, by Jaro and Winkler.
const LIKE: f64 = 0.8;

/// What a file says.
#[derive(Debug, Default)]
pub(crate) struct ConfigFile {
    pub(crate) path: PathBuf,
    pub(crate) entries: Vec<Entry>,
}

/// One of its options.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The flag without its dashes.
    pub(crate) option: String,
    /// As on the command line; several of a flag that may be given several times.
    pub(crate) values: Vec<String>,
    /// Counted from 1.
    pub(crate) line: usize,
}

impl ConfigFile {
    /// Reads a file of the options of `definition`. The error is one of usage, on one line, and names
    /// the place.
    pub(crate) fn read(path: &Path, definition: &Command) -> Result<ConfigFile, String> {
        let shown = path.display();
        let text = bounded_file::read(path);
        let text = text.map_err(|error| format!("--config {shown}: {error}"))?;
        let entries = entries(&text, definition)
            .map_err(|(line, why)| format!("--config {shown}, line {line}: {why}"))?;
        Ok(ConfigFile {
            path: path.to_owned(),
            entries,
        })
    }

    /// What it says of an option, if it does.
    pub(crate) fn entry(&self, option: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.option == option)
    }

    /// An option's place, for people.
    pub(crate) fn place(&self, entry: &Entry) -> String {
        format!("{}:{}", self.path.display(), entry.line)
    }
}

/// A line, and what is wrong there.
type Wrong = (usize, String);

fn entries(text: &str, definition: &Command) -> Result<Vec<Entry>, Wrong> {
    let line_of = |offset: usize| 1 + text[..offset.min(text.len())].matches('\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_of(error.span().map_or(0, |span| span.start));
        (line, error.message().replace('\n', " "))
    })?;
    let mut entries: Vec<Entry> = Vec::new();
    for (key, value) in table.into_inner() {
        let line = line_of(key.span().start);
        let entry = entry(&key.into_inner(), value.into_inner(), line, definition);
        let entry = entry.map_err(|why| (line, why))?;
        if let Some(before) = entries.iter().find(|before| before.option == entry.option) {
            let why = format!("{} is in line {}, too", entry.option, before.line);
            return Err((line, why));
        }
        entries.push(entry);
    }
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

fn entry(
    key: &str,
    value: DeValue<'_>,
    line: usize,
    definition: &Command,
) -> Result<Entry, String> {
    // Either is common in TOML, and no flag has an underscore.
    let option = key.replace('_', "-");
    let argument = definition
        .get_arguments()
        .filter(|argument| {
            argument
                .get_long()
                .is_some_and(|long| !NOT_IN_FILES.contains(&long))
        })
        .find(|argument| argument.get_long() == Some(option.as_str()));
    let Some(argument) = argument else {
        return Err(unknown(key, &option, definition));
    };
    let is_list = argument.get_value_delimiter().is_some();
    let is_flag = !argument.get_action().takes_values();
    let values = match value {
        DeValue::Boolean(on) if is_flag => on.then(|| "true".to_owned()).into_iter().collect(),
        _ if is_flag => return Err(format!("{option} is true or false")),
        DeValue::Array(items) if is_list => items
            .into_iter()
            .map(|item| scalar(&option, item.into_inner()))
            .collect::<Result<_, _>>()?,
        DeValue::Array(_) => return Err(format!("{option} takes one value, no list")),
        value => vec![scalar(&option, value)?],
    };
    if !is_flag {
        check(&option, &values, definition)?;
    }
    Ok(Entry {
        option,
        values,
        line,
    })
}

fn scalar(option: &str, value: DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Table(_) => Err(format!("{option} is an option, no table")),
        _ => Err(format!("{option} takes text or a whole number")),
    }
}

/// What the parser of the command line says to these values.
fn check(long: &str, values: &[String], definition: &Command) -> Result<(), String> {
    for value in values {
        let words = ["chat-cluster".to_owned(), format!("--{long}={value}")];
        let parsed = definition.clone().try_get_matches_from(words);
        if let Err(error) = parsed {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            return Err(first.trim_start_matches("error: ").to_owned());
        }
    }
    Ok(())
}

fn unknown(key: &str, option: &str, definition: &Command) -> String {
    let known = definition.get_arguments().filter_map(clap::Arg::get_long);
    let known = known.filter(|long| !NOT_IN_FILES.contains(long));
    let like = known
        .map(|long| (strsim::jaro_winkler(option, long), long))
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    match like {
        Some((alike, long)) if alike >= LIKE => {
            format!("there is no option {key}; did you mean {long}?")
        }
        _ => format!("there is no option {key}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn read(text: &str) -> Result<Vec<Entry>, Wrong> {
        entries(text, &Cli::command())
    }

    #[test]
    fn each_kind_of_value_is_read_as_on_the_command_line() {
        let text = "# a comment\nworkers = 4\nlisten = ['127.0.0.1:1', \"unix:/x\"]\n\n\
                    session-ttl = '7d'\nproxy_protocol = true\nsharded-pubsub = false\ncors-origin = '*'";
        let found = read(text).unwrap();
        let expected: [(&str, &[&str], usize); 6] = [
            ("workers", &["4"], 2),
            ("listen", &["127.0.0.1:1", "unix:/x"], 3),
            ("session-ttl", &["7d"], 5),
            ("proxy-protocol", &["true"], 6),
            ("sharded-pubsub", &[], 7),
            ("cors-origin", &["*"], 8),
        ];
        let found: Vec<_> = found
            .iter()
            .map(|entry| (entry.option.as_str(), entry.values.clone(), entry.line))
            .collect();
        for (found, (option, values, line)) in found.iter().zip(expected) {
            assert_eq!(
                found,
                &(
                    option,
                    values.iter().map(|v| (*v).to_owned()).collect(),
                    line
                )
            );
        }
        assert_eq!(found.len(), expected.len());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_a_suggestion() {
        for (text, line, why) in [
            (
                "\nwrokers = 4",
                2,
                "there is no option wrokers; did you mean workers?",
            ),
            (
                "session_tll = '1h'",
                1,
                "there is no option session_tll; did you mean session-ttl?",
            ),
            ("colour = 'red'", 1, "there is no option colour"),
            ("config = 'x'", 1, "there is no option config"),
            (
                "workers = 0",
                1,
                "invalid value '0' for '--workers <N>': 0 is not in 1..=128",
            ),
            ("workers = 4.5", 1, "workers takes text or a whole number"),
            ("workers = [1, 2]", 1, "workers takes one value, no list"),
            ("[workers]\nx = 1", 1, "workers is an option, no table"),
            (
                "proxy-protocol = 'yes'",
                1,
                "proxy-protocol is true or false",
            ),
            (
                "message-max = 1\nmessage_max = 2",
                2,
                "message-max is in line 1, too",
            ),
            (
                "listen = ['3000']",
                1,
                "invalid value '3000' for '--listen <ADDR:PORT>': expected ADDR:PORT, such as 127.0.0.1:3000 or [::1]:3000, or unix:PATH",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), (line, why.to_owned()), "{text}");
        }
        let (line, why) = read("workers = 4\nworkers 5").unwrap_err();
        assert_eq!(line, 2);
        assert!(!why.is_empty() && !why.contains('\n'), "{why}");
    }
}
