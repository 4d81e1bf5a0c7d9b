#!/bin/sh
# Install the Debian packages that carry the named commands, as root only; otherwise say what is missing and what follows.
# Each argument is package:command.
missing=""
packages=""
for pair in "$@"; do
    package=${pair%%:*}
    program=${pair##*:}
    if ! PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null 2>&1; then
        missing="$missing $program"
        packages="$packages $package"
    fi
done
[ -z "$packages" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing system packages:$packages ..."
    apt-get update -qq >/dev/null 2>&1
    # shellcheck disable=SC2086
    if DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null 2>&1; then
        exit 0
    fi
    echo "apt-get could not install:$packages"
fi
echo "not on this machine:$missing. What follows from it:"
for program in $missing; do
    case $program in
        mosquitto) echo "  mosquitto: the virtual lab uses iotcore as its broker; tests of mosquitto itself are not run" ;;
        sshd) echo "  sshd: the gateway is this machine itself, not one behind SSH; tests of the SSH gateway are not run" ;;
        chromium) echo "  chromium: tests that look at reports in a browser are not run" ;;
        *) echo "  $program: tests that need it are not run" ;;
    esac
done
echo "to have them: sudo apt-get install$packages"
