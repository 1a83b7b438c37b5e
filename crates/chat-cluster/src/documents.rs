//! What is generated from the definition of the command line: completions and manual pages.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;

/// Prints the script with which a shell completes this program's command line.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "chat-cluster", &mut script);
    let written = std::io::stdout().write_all(&script);
    written.context("cannot print")
}

/// Writes `chat-cluster.1`, and a page for each command, into a directory.
pub(crate) fn man(directory: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot write manual pages to {}", directory.display());
    clap_mangen::generate_to(Cli::command(), directory).with_context(cannot)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_manual_pages_have_every_command_and_every_option_with_its_variable() {
        let directory = tempfile::tempdir().unwrap();
        man(directory.path()).unwrap();
        let page = fs::read_to_string(directory.path().join("chat-cluster.1")).unwrap();
        let page = page.replace("\\-", "-");
        let definition = Cli::command();
        for argument in definition.get_arguments().filter(|one| !one.is_hide_set()) {
            let (Some(long), Some(variable)) = (argument.get_long(), argument.get_env()) else {
                continue;
            };
            assert!(page.contains(&format!("--{long}")), "{long}");
            assert!(page.contains(variable.to_str().unwrap()), "{variable:?}");
        }
        for command in definition.get_subcommands() {
            let path = directory.path();
            let page = path.join(format!("chat-cluster-{}.1", command.get_name()));
            assert_eq!(page.exists(), !command.is_hide_set(), "{}", page.display());
        }
    }

    #[test]
    fn a_missing_directory_is_told_by_name() {
        let error = man(Path::new("/nonexistent/man")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/man"), "{error}");
    }
}
