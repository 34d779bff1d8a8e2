//! Property tests of `view/` without a mount.
//!
//! Random operations run on a filesystem in memory, which is simple enough to be believed, and on a
//! real view over real layers; every answer and, now and then, the whole tree have to agree. What
//! the kernel does between a program and a view (look names up, remember them, forget them, keep
//! unlinked files open) is played by the driver. Wants root: layers carry `trusted.*` attributes.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "view/base.rs"]
mod base;
#[path = "view/check.rs"]
mod check;
#[path = "view/driver.rs"]
mod driver;
#[path = "view/files.rs"]
mod files;
#[path = "view/open_across_swaps.rs"]
mod open_across_swaps;
#[path = "view/ops.rs"]
mod ops;
#[path = "view/reference.rs"]
mod reference;
#[path = "view/regressions.rs"]
mod regressions;
#[path = "view/run.rs"]
mod run;
#[path = "view/stress.rs"]
mod stress;
#[path = "view/swaps.rs"]
mod swaps;

use harness_fs::view::Parts;
use proptest::prelude::*;

/// 64 cases unless `PROPTEST_CASES` says otherwise.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(64);
    ProptestConfig {
        cases,
        max_shrink_iters: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_view_is_a_filesystem(
        live in any::<bool>(),
        entries in prop::collection::vec(base::entry(), 0..24),
        ops in prop::collection::vec(ops::op(), 1..60),
    ) {
        run::run(live, None, &entries, &ops);
    }

    /// The same where nothing but the smallest files is copied before it is written.
    #[test]
    fn a_view_of_partial_files_is_a_filesystem(
        live in any::<bool>(),
        block in 1_u64..200,
        entries in prop::collection::vec(base::entry(), 0..24),
        ops in prop::collection::vec(ops::op(), 1..60),
    ) {
        run::run(live, Some(Parts { whole: 4, block }), &entries, &ops);
    }
}
