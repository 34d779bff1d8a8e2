# shellcheck shell=bash disable=SC2034 # used by those that source it
# What the suites share; sourced as their first line. See `run` for what a suite is.
set -euo pipefail

CONFORMANCE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(cd "$CONFORMANCE/../.." && pwd)
CACHE=${HARNESS_FS_CACHE:-$REPO/.cache}/conformance

# apt_install PACKAGE… : installs those that are missing.
apt_install() {
    local package missing=()
    for package; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing ${missing[*]}" >&2
    timeout 600 apt-get update -q -o DPkg::Lock::Timeout=300 >&2
    DEBIAN_FRONTEND=noninteractive timeout 1200 \
        apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}" >&2
}

# cargo_install CRATE VERSION : installs a program of crates.io under the cache, by version.
cargo_install() {
    local root=$CACHE/$1-$2
    if [ ! -x "$root/bin/$1" ]; then
        echo "building $1 $2" >&2
        mkdir -p "$CACHE"
        CARGO_TARGET_DIR=$CACHE/build timeout 1800 \
            cargo install --quiet --locked --root "$root" "$1@$2" >&2 </dev/null
        rm -rf "$CACHE/build"
    fi
}

# The commands of a suite are its functions of these names.
suite() {
    local command=$1
    shift
    case $command in
    install | populate | run | describe) "suite_$command" "$@" ;;
    *) echo "$(basename "$0"): no command $command" >&2; exit 2 ;;
    esac
}
