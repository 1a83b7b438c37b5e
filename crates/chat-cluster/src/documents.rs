//! What is generated from the definition of the command line: completions and manual pages.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output::print;

/// Prints the script with which a shell completes this program's command line.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "chat-cluster", &mut script);
    print(&script)
}

/// Writes `chat-cluster.1`, and a page for each command, into a directory.
pub(crate) fn man(directory: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot write manual pages to {}", directory.display());
    clap_mangen::generate_to(Cli::command(), directory).with_context(cannot)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;

    use clap::Arg;

    use super::*;

    /// Of the checkout.
    fn page(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(name)
    }

    fn options(definition: &clap::Command) -> impl Iterator<Item = &Arg> {
        let arguments = definition.get_arguments().filter(|one| !one.is_hide_set());
        arguments.filter(|one| one.get_env().is_some())
    }

    /// `docs/configuration.md`, out of the definition of the command line.
    fn reference() -> String {
        let mut text = String::from(
            "<!-- Made from the definition of the command line: UPDATE_REFERENCE=1 cargo test -p chat-cluster reference -->\n\
             # Configuration\n\n\
             Each option is a flag, an environment variable and a key of the file that `--config` names; a flag wins over its\n\
             variable, and that over the file. `REDIS_URL` counts as the variable of `redis`, and `PORT` as that of `listen`\n\
             (`0.0.0.0:PORT`), where the option's own is not set.\n\n\
             The file is [TOML](https://toml.io): `workers = 4`, `listen = [\"0.0.0.0:3000\", \"unix:/run/chat.sock\"]`, `proxy-protocol = true`;\n\
             underscores do as well as hyphens. A key that is not known is an error, with the line and what may have been meant. It is\n\
             read at the start and by `chat-cluster upgrade`; so to change options of a running cluster, edit the file, then\n\
             `chat-cluster upgrade` and `chat-cluster reload`: no connection is refused. Only another `listen`, `runtime-dir` or\n\
             `data-dir` takes a new start, and the number of workers `chat-cluster scale`.\n\n\
             `chat-cluster config check` says what is wrong without starting anything, and `chat-cluster config print` every option with\n\
             its value and where that comes from; both with the same flags and environment as the start (flags before the word\n\
             `config`). Secrets stand in files of their own best, which systemd's `LoadCredential=` or a mounted secret provides:\n\
             `redis-file`, `cluster-secret-file`, `publish-token-file`. `config print` hides them.\n\n\
             | option | flag and variable | default | |\n|---|---|---|---|\n",
        );
        let definition = Cli::command();
        for option in options(&definition) {
            let long = option.get_long().unwrap();
            let variable = option.get_env().unwrap().to_str().unwrap();
            let names = option.get_value_names().unwrap_or_default();
            let name = match option.get_action().takes_values() {
                true => format!(" {}", names[0]),
                false => String::new(),
            };
            let defaults: Vec<_> = option.get_default_values().iter().collect();
            let default = match (defaults.first(), option.get_action().takes_values()) {
                (Some(value), true) => format!("`{}`", value.to_str().unwrap()),
                _ => String::new(),
            };
            let help = option.get_help().unwrap().to_string();
            let mut help = help.replace('|', "\\|").replace('<', "&lt;");
            let values = option.get_possible_values();
            if option.get_action().takes_values() && !values.is_empty() {
                let value = |one: &clap::builder::PossibleValue| {
                    let help = one.get_help().map(ToString::to_string).unwrap_or_default();
                    format!("`{}`: {}", one.get_name(), help.replace('<', "&lt;"))
                };
                let all: Vec<_> = values.iter().map(value).collect();
                let _ = write!(help, ": {}", all.join("; "));
            }
            let name = name.replace('|', "\\|");
            let _ = writeln!(
                text,
                "| `{long}` | `--{long}{name}`<br>`{variable}` | {default} | {help} |"
            );
        }
        text
    }

    #[test]
    fn the_reference_is_that_of_the_definition_and_the_readme_has_every_option() {
        let path = page("docs/configuration.md");
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            fs::write(&path, reference()).unwrap();
        }
        let written = fs::read_to_string(path).unwrap();
        // Not assert_eq: nobody reads two pages beside each other.
        assert!(written == reference(), "UPDATE_REFERENCE=1 writes it anew");
        let readme = fs::read_to_string(page("README.md")).unwrap();
        let help = Cli::command().render_long_help().to_string();
        for option in options(&Cli::command()) {
            let flag = format!("--{}", option.get_long().unwrap());
            assert!(readme.contains(&flag), "{flag} is not in the README");
            assert!(help.contains(&flag), "{flag} is not in the help");
        }
    }

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
