#!/bin/sh
# quickstart.sh [--steps N] [key=value ...]: from a bare Debian 12 to a learning model: installs the packages, builds, and
# plays Absolute Zero with the small model that ships.
set -eu
cd "$(dirname "$0")/.."
words=
while [ $# -gt 0 ]; do
    case $1 in
    --steps)
        [ $# -ge 2 ] || { echo "quickstart.sh: --steps needs a number" >&2; exit 2; }
        words="$words steps=$2"
        shift ;;
    -h | --help)
        echo "Usage: deploy/quickstart.sh [--steps N] [key=value ...]"
        echo "Installs Debian packages (as root or with sudo), builds into build/, and runs"
        echo "  kelvin train --config deploy/config/laptop.yaml"
        echo "A key=value word overrides a line of that file."
        exit 0 ;;
    *=*) words="$words $1" ;;
    *)
        echo "quickstart.sh: \"$1\" is not understood; try --help" >&2
        exit 2 ;;
    esac
    shift
done
deploy/install.sh deploy/packages.txt
echo "building"
mkdir -p build
[ -f build/CMakeCache.txt ] || cmake -B build -G Ninja >build/configure.log 2>&1 ||
    { cat build/configure.log >&2; exit 1; }
cmake --build build >build/build.log 2>&1 || { tail -n 40 build/build.log >&2; exit 1; }
# shellcheck disable=SC2086
exec build/bin/kelvin train --config deploy/config/laptop.yaml $words
