#!/bin/sh
# run.sh [ctest options]: installs what the tests need, builds, and runs every test.
set -eu
cd "$(dirname "$0")/.."
deploy/install.sh deploy/packages.txt tests/packages.txt
mkdir -p build
[ -f build/CMakeCache.txt ] || cmake -B build -G Ninja >build/configure.log 2>&1 ||
    { cat build/configure.log >&2; exit 1; }
cmake -B build >build/configure.log 2>&1 || { cat build/configure.log >&2; exit 1; }
cmake --build build >build/build.log 2>&1 || { grep -E 'error|FAILED' -A5 build/build.log >&2; exit 1; }
exec ctest --test-dir build --output-on-failure "$@"
