//! The master becomes another program without an end: the file on disk is asked what it is, and
//! then executed in this process.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::handoff;
use nix::sys::signal::SigSet;
use serde::{Deserialize, Serialize};
use sticky_master::handover::{self, Handover};
use tokio::process::Command;

use crate::service_manager::SOCKET_VARIABLES;
use crate::signals;

/// This program's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A program that does not say within that time what it is, is none to become.
const PREFLIGHT_TIME: Duration = Duration::from_secs(10);

/// The file that this program was started from, as it was called: where that is a link, what it
/// names may change.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    arguments: Vec<OsString>,
}

/// What a program says of itself when it is asked by `--preflight`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Identity {
    version: String,
    handoff: u16,
    handover: u32,
}

impl Identity {
    pub(crate) fn own() -> Identity {
        Identity {
            version: VERSION.to_owned(),
            handoff: handoff::VERSION,
            handover: Handover::VERSION,
        }
    }
}

impl Program {
    /// This one.
    pub(crate) fn own() -> io::Result<Program> {
        let executed = std::env::current_exe()?;
        let mut arguments = std::env::args_os();
        let called = arguments.next().unwrap_or_default();
        Ok(Program {
            path: path_of(&called, &executed),
            arguments: arguments.collect(),
        })
    }

    /// Executes it in this process. Returns only when that fails.
    pub(crate) fn execute(&self, handover: &Handover) -> io::Result<Infallible> {
        let passed = handover.pass()?;
        let path = c_string(self.path.as_os_str())?;
        let mut arguments = vec![path.clone()];
        for argument in &self.arguments {
            arguments.push(c_string(argument)?);
        }
        let mut environment = vec![assignment(
            OsStr::new(handover::VARIABLE),
            OsStr::new(&passed.variable),
        )?];
        for (name, value) in std::env::vars_os() {
            let of_this_program = SOCKET_VARIABLES.iter().any(|one| name == *one);
            if name != handover::VARIABLE && !of_this_program {
                environment.push(assignment(&name, &value)?);
            }
        }
        // Else one that comes now would end the program before it has learnt to listen.
        let held = signals::hold()?;
        let failed = nix::unistd::execve(&path, &arguments, &environment);
        release(held);
        Ok(failed?)
    }
}

fn release(held: SigSet) {
    if let Err(error) = held.thread_unblock() {
        tracing::error!(%error, "signals are not heard any more");
    }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(io::Error::other)
}

fn assignment(name: &OsStr, value: &OsStr) -> io::Result<CString> {
    let mut text = name.to_owned();
    text.push("=");
    text.push(value);
    c_string(&text)
}

/// The path by which `executed` was called, if it was by one; else its own.
fn path_of(called: &OsStr, executed: &Path) -> PathBuf {
    let is_it = |path: &PathBuf| path.canonicalize().is_ok_and(|found| found == executed);
    let called = Path::new(called);
    let found = if called.components().count() > 1 {
        std::path::absolute(called).ok().filter(is_it)
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = std::env::split_paths(&path).map(|dir| dir.join(called));
        places.find(is_it)
    };
    found.unwrap_or_else(|| executed.to_owned())
}

/// Asks the file on disk whether it can go on where this program is: its version, or why not.
pub(crate) async fn preflight(program: &Program) -> Result<String, String> {
    let path = program.path.display();
    let mut command = Command::new(&program.path);
    command
        .args(&program.arguments)
        .arg("--preflight")
        // What this image was handed over itself is none of its business, and not there any more.
        .env_remove(handover::VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = tokio::time::timeout(PREFLIGHT_TIME, command.output()).await;
    let output = output
        .map_err(|_| format!("{path} does not say within {PREFLIGHT_TIME:?} what it is"))?
        .map_err(|error| format!("{path} cannot be started: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().last();
        let said = last.map(|line| format!(": {line}")).unwrap_or_default();
        return Err(format!("{path} does not pass: {}{said}", output.status));
    }
    let identity: Identity = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("{path} does not say what it is"))?;
    let own = Identity::own();
    let speaks = |identity: &Identity| (identity.handoff, identity.handover);
    if speaks(&identity) != speaks(&own) {
        let version = identity.version;
        return Err(format!(
            "{path} is of version {version}, which speaks another protocol with its workers: \
             a restart is needed"
        ));
    }
    Ok(identity.version)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_program_is_found_again_where_it_was_called_by_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (one, link) = (dir.join("one"), dir.join("current"));
        std::fs::write(&one, "").unwrap();
        symlink(&one, &link).unwrap();
        assert_eq!(path_of(link.as_os_str(), &one), link);
        assert_eq!(path_of(one.as_os_str(), &one), one);
        // Called otherwise, or by something else.
        assert_eq!(path_of(OsStr::new("no-such-name"), &one), one);
        assert_eq!(path_of(OsStr::new("/bin/sh"), &one), one);
    }
}
