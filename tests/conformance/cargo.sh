#!/usr/bin/env bash
# The tests of crates that work on files (crates.io), built and run in the place.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

CRATES=(walkdir@2.5.0 tempfile@3.27.0 filetime@0.2.29 memmap2@0.9.12 same-file@1.0.6 xattr@1.7.0 fs4@1.1.0)
VERSION=$(printf '%s\n' "${CRATES[@]}" | sha256sum | cut -c1-8)
PROJECT=$CACHE/cargo-$VERSION

suite_describe() { echo "full only: \`cargo test\` of ${CRATES[*]}, built in the place; crates.io"; }

# A workspace of them, with all that they need beside it: no network afterwards.
suite_install() {
    if [ ! -e "$PROJECT/vendor" ]; then
        local new=$PROJECT.new crate name
        rm -rf "$new"
        mkdir -p "$new/get/src"
        { printf '[package]\nname = "get"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\n'
          for crate in "${CRATES[@]}"; do echo "${crate%@*} = \"=${crate#*@}\""; done; } >"$new/get/Cargo.toml"
        : >"$new/get/src/lib.rs"
        (cd "$new/get" && timeout 600 cargo vendor --quiet --versioned-dirs vendor >/dev/null)
        for crate in "${CRATES[@]}"; do
            name=${crate%@*}
            mv "$new/get/vendor/$name-${crate#*@}" "$new/$name"
            rm -f "$new/$name/.cargo-checksum.json" "$new/$name/Cargo.lock"
        done
        rm -r "$new/get"
        printf '[workspace]\nresolver = "2"\nmembers = [%s]\n' "$(printf '"%s", ' "${CRATES[@]%@*}")" >"$new/Cargo.toml"
        mkdir "$new/.cargo"
        (cd "$new" && timeout 600 cargo vendor --quiet vendor >.cargo/config.toml)
        mv "$new" "$PROJECT"
    fi
    echo "$VERSION"
}

suite_populate() { cp -a "$PROJECT" "$1/project"; }

suite_run() {
    unset CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR RUSTFLAGS RUSTC_WRAPPER CARGO_BUILD_RUSTC_WRAPPER CARGO_INCREMENTAL
    local log code=0 name
    log=$(mktemp)
    cd "$1/project"
    mkdir "$1/tmp"
    cargo build --workspace --tests --offline >"$log" 2>&1 || code=$?
    cat "$log" >&2
    if [ $code != 0 ]; then echo "build	fail"; else echo "build	pass"; fi
    for name in "${CRATES[@]%@*}"; do
        code=0
        TMPDIR=$1/tmp cargo test --offline --no-fail-fast -p "$name" >"$log" 2>&1 || code=$?
        cat "$log" >&2
        # `test module::name ... ok`
        sed -nE "s/^test (.*) \.\.\. (ok|FAILED|ignored).*/$name: \1\t\2/p" "$log" |
            sed 's/\tok$/\tpass/; s/\tFAILED$/\tfail/; s/\tignored$/\tskip/' | LC_ALL=C sort -u
        echo "$name	$([ $code = 0 ] && echo pass || echo fail)"
    done
    # What was built is known again.
    code=0
    cargo build --workspace --tests --offline -v >"$log" 2>&1 || code=$?
    echo "built again	$([ $code = 0 ] && echo pass || echo fail), $(grep -cE '^ *(Compiling|Dirty|Running) ' "$log" || true) crates compiled"
    rm "$log"
}

suite "$@"
