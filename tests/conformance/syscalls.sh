#!/usr/bin/env bash
# What system calls answer in corners that the other suites do not reach: syscalls.py.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

suite_describe() { echo 'shortened: answers of system calls on new and on lower files; syscalls.py, ours'; }
suite_install() { sha256sum "$CONFORMANCE/syscalls.py" | cut -c1-8; }
suite_populate() { python3 "$CONFORMANCE/syscalls.py" populate "$1"; }
suite_run() { SYSCALLS_DEPTH=$([ "$2" = full ] && echo 1000 || echo 300) python3 "$CONFORMANCE/syscalls.py" run "$1"; }

suite "$@"
