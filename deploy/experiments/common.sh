#!/bin/sh
# common.sh: what the experiments share. They source it in the repository's root.
# shellcheck disable=SC2034
me=$(basename "$0")

# refuse TEXT: what the user asked for cannot be done.
refuse() {
    echo "$me: $1" >&2
    exit 2
}

# folder_of OPTION [FOLDER] and number_of OPTION [NUMBER] print the value of an option, or refuse it.
folder_of() {
    [ $# -ge 2 ] || refuse "$1 needs a folder"
    echo "$2"
}
number_of() {
    case ${2-} in
    '' | *[!0-9]* | 0*) refuse "$1 needs a positive number" ;;
    esac
    echo "$2"
}

# say TEXT: a line with the time.
say() {
    printf '%s  %s\n' "$(date +%H:%M:%S)" "$1"
}

# run LOG WORD...: a command whose output goes to LOG, and to the user when it fails.
run() {
    log=$1
    shift
    "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }
}

# built PACKAGES: sets bin to the folder of built programs, and installs and builds what is missing.
built() {
    deploy/install.sh deploy/packages.txt "$1"
    bin=${KELVIN_BIN:-build/bin}
    if [ -z "${KELVIN_BIN:-}" ]; then
        [ -f build/CMakeCache.txt ] || cmake -B build -G Ninja >/dev/null
        cmake --build build >/dev/null
    fi
}
