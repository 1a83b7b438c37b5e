//! From a file, the environment and the command line to options: what comes later wins.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::cli::{Cli, variable};
use crate::config_file::{ConfigFile, Entry};

/// Variables of platforms that name an option by another name; they win over a file, as its own
/// variable does.
const OTHER_VARIABLES: [(&str, &str); 3] = [
    ("redis", "REDIS_URL"),
    ("redis-file", "REDIS_URL"),
    ("listen", "PORT"),
];

/// The options, and where each comes from.
#[derive(Debug)]
pub(crate) struct CommandLine {
    pub(crate) cli: Cli,
    pub(crate) matches: ArgMatches,
    /// Empty, if none was named.
    pub(crate) file: ConfigFile,
}

/// Where an option's value comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Flag,
    Variable(String),
    /// With the line.
    File(String),
    Default,
}

impl CommandLine {
    /// Reads what this process was started with. Ends it, with what clap has to say, for `--help` and
    /// for what cannot be parsed. The error is of the file, and one of usage.
    pub(crate) fn read() -> Result<CommandLine, String> {
        CommandLine::of(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    fn of(
        words: impl IntoIterator<Item = OsString>,
    ) -> Result<Result<CommandLine, String>, clap::Error> {
        let words: Vec<OsString> = words.into_iter().collect();
        let definition = Cli::command();
        let mut matches = definition.clone().try_get_matches_from(&words)?;
        let mut cli = Cli::from_arg_matches(&matches)?;
        let mut file = ConfigFile::default();
        if let Some(path) = &cli.options.config {
            file = match ConfigFile::read(path, &definition) {
                Ok(file) => file,
                Err(error) => return Ok(Err(error)),
            };
            matches = with_defaults(definition, &file).try_get_matches_from(&words)?;
            cli = Cli::from_arg_matches(&matches)?;
        }
        Ok(Ok(CommandLine { cli, matches, file }))
    }

    /// Whether an option without a default has a value; `id` as clap has it.
    pub(crate) fn is_given(&self, id: &str) -> bool {
        self.matches.get_raw(id).is_some()
    }

    /// Where the value of an option comes from; `id` as clap has it.
    pub(crate) fn source(&self, id: &str) -> Source {
        let option = id.replace('_', "-");
        match self.matches.value_source(id) {
            Some(ValueSource::CommandLine) => return Source::Flag,
            Some(ValueSource::EnvVariable) => {
                let upper = id.to_uppercase();
                return Source::Variable(format!("CHAT_CLUSTER_{upper}"));
            }
            _ => {}
        }
        match (platform_variable(&option), self.file.entry(&option)) {
            (Some(name), _) => Source::Variable(name.to_owned()),
            (None, Some(entry)) => Source::File(self.file.place(entry)),
            (None, None) => Source::Default,
        }
    }
}

/// The definition with what the file says in place of its defaults, which flags and variables win
/// over.
fn with_defaults(definition: Command, file: &ConfigFile) -> Command {
    let counts =
        |entry: &&Entry| !entry.values.is_empty() && platform_variable(&entry.option).is_none();
    let entries = file.entries.iter().filter(counts);
    entries.fold(definition, |definition, entry| {
        let id = entry.option.replace('-', "_");
        definition.mut_arg(id, |option| option.default_values(entry.values.clone()))
    })
}

/// The variable of a platform that is set and means that option.
fn platform_variable(option: &str) -> Option<&'static str> {
    let mut others = OTHER_VARIABLES.iter().map(|(of, name)| (*of, *name));
    let found = others.find(|(of, name)| *of == option && variable(name).is_some());
    found.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Parses words after `--config` with that file.
    fn parse(file: &str, words: &str) -> CommandLine {
        let mut config = tempfile::NamedTempFile::new().unwrap();
        config.write_all(file.as_bytes()).unwrap();
        let line = format!("chat-cluster --config {} {words}", config.path().display());
        let words = line.split_whitespace().map(OsString::from);
        CommandLine::of(words).unwrap().unwrap()
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let line = parse(
            "workers = 3\nmessage-max = 7\nproxy-protocol = true",
            "--workers 5",
        );
        let options = &line.cli.options;
        assert_eq!(options.workers(), 5);
        assert_eq!((options.message_max, options.history_max), (7, 10_000));
        assert!(options.proxy_protocol);
        assert_eq!(line.source("workers"), Source::Flag);
        assert_eq!(line.source("history_max"), Source::Default);
        for (id, line_number) in [("message_max", 2), ("proxy_protocol", 3)] {
            let Source::File(place) = line.source(id) else {
                panic!("{id} is from the file");
            };
            assert!(place.ends_with(&format!(":{line_number}")), "{place}");
        }
    }

    #[test]
    fn a_list_of_a_flag_replaces_that_of_the_file() {
        let file = "listen = ['127.0.0.1:1', '127.0.0.1:2']";
        let both = parse(file, "").cli.options.listen(false).unwrap();
        assert_eq!(both.len(), 2);
        let one = parse(file, "--listen 127.0.0.1:3").cli.options;
        let one = one.listen(false).unwrap();
        assert_eq!(one[0].to_string(), "http://127.0.0.1:3");
        assert_eq!(one.len(), 1);
    }
}
