//! `chat-cluster config check` and `config print`.

use clap::{Arg, CommandFactory};

use crate::cli::Cli;
use crate::command_line::{CommandLine, Source};
use crate::commands::ConfigCommand;
use crate::master::Settings;
use crate::output::print;
use crate::upgrade::VERSION;
use crate::worker::StoreChoice;

/// Options whose values are nobody's business.
const SECRETS: [&str; 2] = ["cluster_secret", "publish_token"];

/// In place of what is hidden.
const HIDDEN: &str = "(hidden)";

/// Options that are none of a configuration.
const NOT_SHOWN: [&str; 2] = ["config", "preflight"];

/// Where values are told where they come from.
const COLUMN: usize = 40;

/// The outer error is one of usage.
pub(crate) fn run(
    line: &CommandLine,
    command: ConfigCommand,
) -> Result<anyhow::Result<()>, String> {
    match command {
        ConfigCommand::Check => {
            let settings = Settings::new(&line.cli.options, false)?;
            Ok(settings
                .check()
                .and_then(|_| print(b"the configuration is good\n")))
        }
        ConfigCommand::Print => {
            let text = text(line)?;
            Ok(print(text.as_bytes()))
        }
    }
}

/// Each option on a line, with where it comes from; those that have no value behind a `#`.
fn text(line: &CommandLine) -> Result<String, String> {
    let mut text = format!("# chat-cluster {VERSION}\n");
    let definition = Cli::command();
    for argument in definition.get_arguments() {
        let id = argument.get_id().as_str();
        let Some(long) = argument.get_long().filter(|_| !NOT_SHOWN.contains(&id)) else {
            continue;
        };
        let values = match given(line, argument) {
            values if values.is_empty() => effective(line, id)?,
            values => values,
        };
        let source = match line.source(id) {
            _ if values.is_empty() => "not set".to_owned(),
            Source::Flag => format!("--{long}"),
            Source::Variable(name) => format!("${name}"),
            Source::File(place) => place,
            Source::Default => "default".to_owned(),
        };
        let shown = match (values.is_empty(), SECRETS.contains(&id)) {
            (true, _) => format!("# {long}"),
            (false, true) => format!("# {long} = {HIDDEN}"),
            (false, false) => format!("{long} = {}", toml(argument, &values)),
        };
        text.push_str(format!("{shown:<COLUMN$} # {source}").trim_end());
        text.push('\n');
    }
    Ok(text)
}

/// The words that an option was given, by whatever way; none of a flag that is off.
fn given(line: &CommandLine, argument: &Arg) -> Vec<String> {
    let words = line.matches.get_raw(argument.get_id().as_str());
    let words = words.into_iter().flatten();
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

/// What a start would take where nothing is given.
fn effective(line: &CommandLine, id: &str) -> Result<Vec<String>, String> {
    let options = &line.cli.options;
    Ok(match id {
        "workers" => vec![options.workers().to_string()],
        "listen" => {
            let addresses = options.listen(false)?.into_iter();
            let text = |address: sticky_master::ListenAddress| match address {
                sticky_master::ListenAddress::Tcp(address) => address.to_string(),
                unix => unix.to_string(),
            };
            addresses.map(text).collect()
        }
        "runtime_dir" => vec![options.runtime_dir().display().to_string()],
        // With a file it is in there, and a start takes one of the two.
        "redis" if !line.is_given("redis_file") => match options.store()? {
            StoreChoice::Redis(url) => vec![url],
            StoreChoice::Embedded { .. } => Vec::new(),
        },
        "data_dir" => match options.store()? {
            StoreChoice::Embedded { data_dir, .. } => vec![data_dir.display().to_string()],
            StoreChoice::Redis(_) => Vec::new(),
        },
        "node_name" => vec![options.node_name(&options.listen(false)?)],
        _ => Vec::new(),
    })
}

/// As a file would have it. A password in the address of Redis is hidden.
fn toml(argument: &Arg, values: &[String]) -> String {
    let text = |value: &String| match argument.get_id().as_str() {
        "redis" => quoted(&without_password(value)),
        _ if !argument.get_action().takes_values() => value.clone(),
        _ if value.parse::<u64>().is_ok() => value.clone(),
        _ => quoted(value),
    };
    match values {
        [value] if argument.get_value_delimiter().is_none() => text(value),
        values => format!(
            "[{}]",
            values.iter().map(text).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// A basic string of TOML, which JSON's strings are.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `redis://ann:secret@host` as `redis://ann:(hidden)@host`.
fn without_password(url: &str) -> String {
    let hidden = || {
        let (scheme, rest) = url.split_once("://")?;
        let (credentials, host) = rest.rsplit_once('@')?;
        let (user, _) = credentials.split_once(':')?;
        Some(format!("{scheme}://{user}:{HIDDEN}@{host}"))
    };
    hidden().unwrap_or_else(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_hidden_wherever_it_has_an_at_sign() {
        for (url, shown) in [
            ("redis://h:6379/2", "redis://h:6379/2"),
            ("redis://:p@h", "redis://:(hidden)@h"),
            ("redis://ann:p@ss:w@h:1,h:2", "redis://ann:(hidden)@h:1,h:2"),
            (
                "redis+unix:///run/redis.sock",
                "redis+unix:///run/redis.sock",
            ),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
