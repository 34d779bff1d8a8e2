//! Caches in which two different files of one name are equally good.

use super::Policy;

/// The shipped rules, first match wins.
///
/// These are stores that tools fill with downloads and results under names made from content or
/// from an immutable version, and the indexes they rebuild when an entry is missing. There the
/// later file is as good as the earlier one. What a build *installs* there is not: two different
/// snapshots of one Maven artifact are two results, so they stay a conflict.
pub(super) const CACHES: &[(&str, Policy)] = &[
    // Maven's own notes on where a file came from: comments with dates, written on each run.
    (
        "**/.m2/repository/**/{_remote.repositories,resolver-status.properties,*.lastUpdated}",
        Policy::Last,
    ),
    (
        "**/.m2/repository/**/maven-metadata-local.xml",
        Policy::Fail,
    ),
    ("**/.m2/repository/**/*-SNAPSHOT/**", Policy::Fail),
    ("**/.m2/repository/**", Policy::Last),
    ("**/.m2/wrapper/dists/**", Policy::Last),
    ("**/.gradle/caches/**", Policy::Last),
    ("**/.gradle/wrapper/dists/**", Policy::Last),
    ("**/.ivy2/cache/**", Policy::Last),
    ("**/.cache/coursier/v1/**", Policy::Last),
    // npm, Yarn, pnpm.
    ("**/_cacache/**", Policy::Last),
    ("**/.cache/yarn/**", Policy::Last),
    ("**/.yarn/berry/cache/**", Policy::Last),
    ("**/.yarn/cache/**", Policy::Last),
    ("**/.pnpm-store/**", Policy::Last),
    ("**/pnpm/store/**", Policy::Last),
    // Cargo, in a home directory and where the rust images have it.
    ("**/{.cargo,cargo}/registry/**", Policy::Last),
    ("**/{.cargo,cargo}/git/{db,checkouts}/**", Policy::Last),
    ("**/{.cargo,cargo}/.global-cache", Policy::Last),
    // Go: modules, checksums, build results.
    ("**/pkg/mod/**", Policy::Last),
    ("**/pkg/sumdb/**", Policy::Last),
    ("**/.cache/go-build/**", Policy::Last),
    // Python.
    ("**/.cache/pip/**", Policy::Last),
    ("**/.cache/uv/**", Policy::Last),
    ("**/.cache/pypoetry/{cache,artifacts}/**", Policy::Last),
    // Others.
    ("**/.nuget/packages/**", Policy::Last),
    ("**/.cache/composer/**", Policy::Last),
    ("**/{.ccache,.cache/ccache}/**", Policy::Last),
];
