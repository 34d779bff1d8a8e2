#!/usr/bin/env bash
# Python's own tests of files (Debian), with their temporary files in the place.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TESTS=(test_os test_shutil test_posix test_tempfile test_mmap test_fcntl test_sqlite3 test_mailbox test_pathlib test_glob
    test_tarfile test_zipfile test_fileio test_io test_stat test_import test_dbm test_shelve test_filecmp test_bz2)

suite_describe() { echo "full only: ${#TESTS[@]} of Python's own tests, with their files in the place; Debian"; }

suite_install() {
    apt_install python3
    apt_install "lib$(readlink /usr/bin/python3)-testsuite"
    /usr/bin/python3 -c 'import platform; print(platform.python_version())'
}

suite_populate() { :; }

suite_run() {
    mkdir "$1/tmp"
    cd "$1/tmp"
    TMPDIR=$1/tmp LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
        /usr/bin/python3 -m test --tempdir "$1/tmp" -v "${TESTS[@]}" >"$1/log" 2>&1 || true
    cat "$1/log" >&2
    # `test_name (module.Class.test_name) ... ok`, and on a line of its own the outcome of those that print something.
    # shellcheck disable=SC2016
    sed -nE 's/^[a-zA-Z0-9_]+ \(([a-zA-Z0-9_.]+)\).* \.\.\. (ok|FAIL|ERROR|skipped).*$/\1\t\2/p; s/^[a-zA-Z0-9_]+ \(([a-zA-Z0-9_.]+)\)$/\1\tran/p' "$1/log" |
        sed 's/\tok$/\tpass/; s/\tFAIL$/\tfail/; s/\tERROR$/\tfail/; s/\tskipped$/\tskip/; s/\tran$/\tpass/' | LC_ALL=C sort -u
    sed -nE 's/^(test_[a-z0-9_]+) (failed|skipped).*$/\1\t\2/p' "$1/log" | LC_ALL=C sort -u
}

suite "$@"
