//! How far a save or a restore has come.

use std::cell::RefCell;
use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use super::super::output::note;
use crate::cache::Progress;
use crate::daemon::bytes;

/// A bar on a terminal, a line for each part elsewhere, nothing if it is not wanted.
pub struct Shown {
    quiet: bool,
    bar: RefCell<Option<ProgressBar>>,
}

impl Shown {
    /// `quiet` says nothing.
    pub fn new(quiet: bool) -> Shown {
        Shown {
            quiet,
            bar: RefCell::new(None),
        }
    }
}

impl Progress for Shown {
    fn begin(&self, what: &str, length: u64) {
        if self.quiet {
            return;
        }
        if !std::io::stderr().is_terminal() {
            note(&format!("{what} {}", bytes(length)));
            return;
        }
        let bar = ProgressBar::new(length);
        let template = "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        *self.bar.borrow_mut() = Some(bar);
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = &*self.bar.borrow() {
            bar.inc(bytes);
        }
    }

    fn end(&self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}
