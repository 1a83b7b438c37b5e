//! `chat-cluster`: the one program. Parses, wires, runs, exits.
#![forbid(unsafe_code)]

mod admin;
mod bounded_file;
mod cli;
mod command_line;
mod commands;
mod config_command;
mod config_file;
mod control;
mod documents;
mod master;
mod memory;
mod migrate;
mod node;
mod operator;
mod option_values;
mod output;
mod service_manager;
mod signals;
mod status;
mod telemetry;
mod upgrade;
mod worker;

use std::process::ExitCode;

use crate::command_line::CommandLine;
use crate::commands::Command;
use crate::control::Request;

/// The command line or the environment cannot be understood.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    // Before anything is opened.
    let beginning = master::Beginning::take();
    let line = match CommandLine::read() {
        Ok(line) => line,
        Err(error) => return usage(&error),
    };
    let options = &line.cli.options;
    let ran = match &line.cli.command {
        Some(Command::Worker) => worker::run(),
        Some(Command::Migrate(what)) => migrate::run(what),
        Some(Command::Reload) => control::ask(&options.runtime_dir(), &Request::Reload),
        Some(Command::Upgrade) => control::ask(&options.runtime_dir(), &Request::Upgrade),
        Some(Command::Completions { shell }) => documents::completions(*shell),
        Some(Command::Man { directory }) => documents::man(directory),
        Some(Command::Status(how)) => status::run(&options.runtime_dir(), how),
        Some(Command::Scale(to)) => {
            let request = Request::Scale {
                workers: to.workers.into(),
                rebalance: to.rebalance,
            };
            control::ask(&options.runtime_dir(), &request)
        }
        Some(Command::Config(config)) => match config_command::run(&line, config.command) {
            Ok(ran) => ran,
            Err(error) => return usage(&error),
        },
        None => match beginning {
            Err(error) => Err(error),
            Ok(beginning) => match master::Settings::new(options, beginning.has_sockets()) {
                Ok(settings) if options.preflight => master::preflight(&settings),
                Ok(settings) => master::run(settings, options, beginning),
                Err(error) => return usage(&error),
            },
        },
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chat-cluster: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn usage(error: &str) -> ExitCode {
    eprintln!("chat-cluster: {error}");
    ExitCode::from(USAGE)
}

/// The error and its causes, without those that the one before them names.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(|cause| cause.to_string()) {
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn an_error_is_one_line_and_names_each_cause_once() {
        let error = anyhow!("port taken\nby 7").context("bind: port taken\nby 7");
        assert_eq!(one_line(&error), "bind: port taken by 7");
        let error = anyhow!("no such file").context("cannot start");
        assert_eq!(one_line(&error), "cannot start: no such file");
    }
}
