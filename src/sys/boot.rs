//! Which boot of the machine this is.

use crate::error::{Context, Result};

/// A text that no other boot of a machine has, of less than 40 bytes.
///
/// # Errors
/// As open(2) on `/proc/sys/kernel/random/boot_id` (proc(5)).
pub fn id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).context(|| path)?;
    Ok(text.trim().to_owned())
}
