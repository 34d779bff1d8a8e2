#!/usr/bin/env bash
# The filesystem class of stress-ng (Debian), with --verify.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

COMMON=(--verify --temp-path . --oomable --hdd-bytes 64M --fallocate-bytes 64M --iomix-bytes 64M --readahead-bytes 64M
    --copy-file-bytes 128M --seek-size 64M)

suite_describe() { echo 'shortened: every stressor of the filesystem class, alone and all at once, --verify; Debian'; }

suite_install() {
    apt_install stress-ng
    stress-ng --version | sed 's/stress-ng, version \([^ ]*\).*/\1/'
}

suite_populate() { :; }

stressors() { stress-ng --class 'filesystem?' 2>&1 | sed 's/.*stressors: //'; }

suite_run() {
    local length=$2 name
    cd "$1"
    if [ "$length" = full ]; then
        for name in $(stressors); do
            stress "$name" --"$name" 2 --timeout 4s
        done
        stress 'all at once' --class filesystem --all 1 --timeout 60s
    else
        stress 'all at once' --class filesystem --all 1 --timeout 8s
    fi
}

# stress NAME ARGUMENT… : one run; the exit codes are those of stress-ng(1). That it has skipped one, it only says.
stress() {
    local name=$1 code=0 log
    shift
    log=$(mktemp)
    stress-ng "${COMMON[@]}" "$@" >"$log" 2>&1 || code=$?
    cat "$log" >&2
    if [ $code = 0 ] && [ "$name" != 'all at once' ] && grep -q 'skipping stress' "$log"; then code=4; fi
    rm "$log"
    case $code in
    0) echo "$name	pass" ;;
    3 | 4) echo "$name	skip" ;; # no resources, not implemented
    *) echo "$name	fail ($code)" ;;
    esac
}

suite "$@"
