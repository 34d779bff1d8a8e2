#!/usr/bin/env bash
# git's own tests (Debian's source, built once): the whole tree lies below, and each script makes its repositories beside
# itself. As a user, since root may do too much for some of them.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

VERSION=2.39.5
SHA256=c58da92c378df4a986ca33266897a7397e86c22ee266a284d8c2432c39066b59
BUILT=$CACHE/git-$VERSION
LIST=$CONFORMANCE/git-scripts

suite_describe() { echo "full only: $(wc -l <"$LIST") scripts of git's own test suite (tests/conformance/git-scripts); Debian's source, $VERSION"; }

suite_install() {
    if [ ! -e "$BUILT/git" ]; then
        apt_install gcc make libc6-dev zlib1g-dev perl xz-utils
        echo "building git $VERSION" >&2
        rm -rf "$BUILT.new"
        mkdir -p "$BUILT.new"
        cd "$BUILT.new"
        debian_source git "$VERSION" "$SHA256"
        local without=(NO_CURL=1 NO_EXPAT=1 NO_GETTEXT=1 NO_OPENSSL=1 NO_PYTHON=1 NO_TCLTK=1)
        timeout 3000 nice make -s -j "$(nproc)" "${without[@]}" CFLAGS=-O1 all >&2
        # The tests need no more than this, and it lies below the view, once for each place.
        find . -name '*.o' -delete
        rm -rf Documentation git-gui gitk-git gitweb po
        mv "$BUILT.new" "$BUILT"
    fi
    echo "$VERSION"
}

suite_populate() {
    cp -a "$BUILT" "$1/git"
    chown -R 54321:54321 "$1/git"
}

suite_run() {
    cd "$1/git/t"
    xargs -P 2 -n 1 "$CONFORMANCE/git.sh" one <"$LIST"
}

# One script; which of its tests are not ok or are skipped is part of the outcome. (In the wrappers of bin-wrappers stands
# the path where git was built.)
one() {
    local script=$1 code=0 log bad skipped count
    log=$(mktemp)
    setpriv --reuid=conformance1 --regid=conformance1 --clear-groups \
        env -i PATH="$PATH" HOME=/nonexistent TMPDIR=/tmp LC_ALL=C \
        timeout -k 10 900 sh "./$script.sh" --no-bin-wrappers --no-color >"$log" 2>&1 </dev/null || code=$?
    { echo "== $script: $code"; cat "$log"; } >&2
    bad=$(sed -nE '/# TODO/d; s/^not ok ([0-9]+).*/\1/p' "$log" | tr '\n' ' ')
    skipped=$(sed -nE 's/^ok ([0-9]+) # skip.*/\1/p' "$log" | tr '\n' ' ')
    count=$(grep -cE '^(not )?ok [0-9]+' "$log" || true)
    if [ "$code" != 0 ] || [ -n "$bad" ]; then
        echo "$script	fail ($code) of $count tests: $bad"
    elif [ "$count" = 0 ]; then
        echo "$script	skip"
    else
        echo "$script	pass, $count tests${skipped:+, skipped: $skipped}"
    fi
    rm "$log"
}

if [ "${1:-}" = one ]; then "$@"; else suite "$@"; fi
