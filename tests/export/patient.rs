//! Ways out of a stage for who waits until they are done.

use std::path::{Path, PathBuf};

use harness_fs::error::Result;
use harness_fs::export::{self, ApplyReport, ExportOptions, ExportReport};
use harness_fs::layer::Stack;

pub fn export(
    stack: &Stack,
    own_base: bool,
    mapped: &[PathBuf],
    to: &Path,
    options: ExportOptions,
) -> Result<ExportReport> {
    export::export(stack, own_base, mapped, to, options, &|| Ok(()))
}

pub fn apply(stack: &Stack, mapped: &[PathBuf], dir: &Path) -> Result<ApplyReport> {
    export::apply(stack, mapped, dir, &|| Ok(()))
}

pub fn apply_all(stack: &Stack, mapped: &[PathBuf], dir: &Path) -> Result<ApplyReport> {
    export::apply_all(stack, mapped, dir, &|| Ok(()))
}
