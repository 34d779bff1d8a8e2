//! `cache prune`: forget keys by their age, number or size, and what nobody needs.

use std::time::Duration;

use super::super::output::{Trouble, print, print_json};
use super::which::{DEFAULT_STORE, open};
use crate::cache::{self, Pruning};
use crate::daemon::bytes;

/// Forget keys by their age, number or size, and remove what no key stands for.
///
/// Without an option it removes only what no key of any scope stands for. What is
/// younger than a day stays: a save that is under way may have sent it. A registry
/// removes its blobs by itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs cache prune --older-than 14d
  harness-fs cache prune --keep 20 --prefix deps- --scope main
  harness-fs cache prune --max-size 10GiB --dry-run")]
pub struct Arguments {
    /// The store: file:///DIR, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY.
    #[arg(long, value_name = "URL", env = "HARNESS_FS_STORE", default_value = DEFAULT_STORE)]
    store: String,
    /// Keys of this scope only; otherwise of all.
    #[arg(long, value_name = "NAME")]
    scope: Option<String>,
    /// Keys that begin with this only.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: String,
    /// Those that were saved longer ago, such as 14d or 12h.
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// All but so many, the newest.
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// The oldest, until those that are left have at most so many bytes; KiB, MiB, GiB and TiB.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_size: Option<u64>,
    /// How old what no key stands for has to be to be removed [default: 1d].
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    unused_for: Option<Duration>,
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Bytes, as `10GiB`.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        other => return Err(format!("'{other}' is no unit: KiB, MiB, GiB or TiB")),
    };
    let number: u64 = digits.trim().parse().map_err(|error| format!("{error}"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "it is too large".to_owned())
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: &Arguments) -> Result<u8, Trouble> {
    let store = open(&arguments.store)?;
    let wish = Pruning {
        scope: arguments.scope.clone(),
        prefix: arguments.prefix.clone(),
        older_than: arguments.older_than,
        keep: arguments.keep,
        max_bytes: arguments.max_size,
        blob_age: arguments.unused_for,
        dry_run: arguments.dry_run,
    };
    let report = cache::prune(&store, &wish)?;
    if arguments.json {
        print_json(&report)?;
        return Ok(0);
    }
    let would = if arguments.dry_run { "would be " } else { "" };
    let mut text = String::new();
    for key in &report.removed {
        text.push_str(&format!("{would}forgotten: {key}\n"));
    }
    text.push_str(&format!(
        "keys {would}forgotten: {}, left: {}; blobs {would}removed: {}, {}",
        report.removed.len(),
        report.left,
        report.blobs,
        bytes(report.bytes)
    ));
    print(&text)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("10GiB"), Ok(10 << 30));
        assert_eq!(size("7"), Ok(7));
        assert_eq!(size("3 k"), Ok(3 << 10));
        for bad in ["", "GiB", "1XiB", "-1", "99999999999TiB", "1.5GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
