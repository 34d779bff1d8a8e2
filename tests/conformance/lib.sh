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
        # Quick to build rather than quick.
        CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
            CARGO_TARGET_DIR=$CACHE/build timeout 1800 \
            cargo install --quiet --locked --root "$root" "$1@$2" >&2 </dev/null
        rm -rf "$CACHE/build"
    fi
}

# debian_source PACKAGE VERSION SHA256 : unpacks the original source of Debian's package, of that version, into the current
# directory, which is empty.
debian_source() {
    local package=$1 version=$2 sha256=$3 apt got tarball
    apt=$(mktemp -d)
    mkdir -p "$apt/sources" "$apt/lists/partial" "$apt/cache/archives/partial"
    # The same places as for packages, asked for sources; apt's own lists stay as they are.
    sed -E 's/^Types:.*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$apt/sources/source.sources" 2>/dev/null ||
        sed -nE 's/^deb /deb-src /p' /etc/apt/sources.list >"$apt/sources/source.list"
    local options=(-q -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$apt/sources" -o "Dir::State::lists=$apt/lists"
        -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
    timeout 600 apt-get "${options[@]}" update >&2
    got=$(apt-cache "${options[@]}" showsrc "$package" | sed -n 's/^Version: //p' | grep -E "^([0-9]+:)?${version//./\\.}-" | sort -V | tail -n 1)
    [ -n "$got" ] || { echo "Debian has no source of $package $version" >&2; return 1; }
    (cd "$apt/cache" && timeout 600 apt-get "${options[@]}" source --download-only "$package=$got" >&2)
    tarball=$(echo "$apt/cache/${package}_$version.orig.tar."*)
    sha256sum --check --quiet <<<"$sha256  $tarball" >&2
    tar -xf "$tarball" --strip-components=1
    rm -r "$apt"
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
