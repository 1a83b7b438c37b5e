//! A bar on standard error, when that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::clock;

/// How far a run is: in steps, and within the step.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A run of so many steps.
    pub(crate) fn new(steps: u64) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
        let template = "[{elapsed_precise}] {wide_bar} {pos}/{len} {msg} {prefix}";
        // A wrong template would only look different.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Progress(bar)
    }

    /// What the step is.
    pub(crate) fn step(&self, what: String) {
        self.0.set_message(what);
        self.0.set_prefix("");
    }

    pub(crate) fn step_done(&self) {
        self.0.inc(1);
    }

    /// A line above the bar; on standard error even when there is no bar.
    pub(crate) fn line(&self, text: &str) {
        self.0.suspend(|| eprintln!("{text}"));
    }

    /// Units done in this step.
    pub(crate) fn units(&self, done: u64) {
        self.0.set_prefix(format!("{done} done"));
    }

    /// Sleeps until `instant` of the clock.
    pub(crate) async fn sleep_until(&self, instant: u64, doing: &'static str) {
        self.0.set_prefix(doing);
        tokio::time::sleep(clock::until(instant)).await;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
