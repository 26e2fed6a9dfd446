#!/bin/sh
# install.sh FILE...: installs the Debian packages listed in the files, a name a line; asks for nothing, and does
# nothing when all are there. Uses sudo when it is not run as root.
set -eu
missing=
for package in $(cat "$@"); do
    state=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$state" = "install ok installed" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "install.sh: run as root, or install sudo; missing:$missing" >&2; exit 2; }
    sudo=sudo
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get -o DPkg::Lock::Timeout=300 update -qq
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends $missing \
    >/tmp/kelvin-install.$$ 2>&1 || { cat /tmp/kelvin-install.$$ >&2; exit 1; }
rm -f /tmp/kelvin-install.$$
