#!/usr/bin/env bash
# Install what building, testing and showing weft needs on Debian 12.
set -euo pipefail

usage() {
	cat <<'END'
usage: scripts/setup.sh [-h | --list] [--also NAMES] [--no-checks] [--suites]

Installs, with apt-get, the packages that weft's build, tests and demo need on
a bare Debian 12 machine, and does nothing else. Packages that are there are
left alone; when all are, it ends at once. Needs root, or sudo. No daemon among
them is started or enabled.

  --list       only print the packages that are missing
  --also NAMES these packages, too (one argument)
  --no-checks  leave out what only scripts/check.sh needs (clang-format, shellcheck)
  --suites     also what scripts/conformance.sh and suites.sh run: other people's test suites
  -h           this text
END
}

packages=(
	# build
	gcc g++ libc6-dev cmake ninja-build pkg-config
	liburing-dev libunwind-dev libzydis-dev
	# tests
	libgtest-dev git perl-base libjemalloc2 libgoogle-perftools4 xz-utils pigz zstd
	# the load generator, and the servers of the demo and the tests
	libssl-dev libmicrohttpd-dev microsocks tinyproxy-bin stunnel4 python3
	pdns-server pdns-backend-bind apache2-bin nbdkit libnbd-bin
	# what the scripts call
	openssl iproute2 procps util-linux
)
# what scripts/check.sh looks at sources with
checks=(clang-format shellcheck)

# other people's test suites; posixtestsuite is a source package, which is not installed
suites=(libglib2.0-tests stress-ng dpkg-dev libpython3.11-testsuite)

missing_packages() {
	local installed package
	installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' \
		"${packages[@]}" 2>/dev/null |
		sed -n 's/^installed //p') || true
	for package in "${packages[@]}"; do
		grep -qxF "$package" <<<"$installed" || echo "$package"
	done
}

list_only=false
arguments=("$@")
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	--list) list_only=true ;;
	--no-checks) checks=() ;;
	--suites) packages+=("${suites[@]}") ;;
	--also)
		[ $# -ge 2 ] || { usage >&2 && exit 2; }
		read -ra more <<<"$2"
		packages+=("${more[@]}")
		shift
		;;
	*) usage >&2 && exit 2 ;;
	esac
	shift
done
packages+=("${checks[@]}")

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	echo "setup: this is not Debian; install the equivalents of:" \
		"${packages[*]}" >&2
	exit 1
fi
mapfile -t missing < <(missing_packages)
if $list_only; then
	[ ${#missing[@]} -eq 0 ] || printf '%s\n' "${missing[@]}"
	exit 0
fi
if [ ${#missing[@]} -eq 0 ]; then
	echo "setup: all ${#packages[@]} packages are installed"
	exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "setup: run this as root to install: ${missing[*]}" >&2
		exit 1
	fi
	exec sudo -- "$0" "${arguments[@]}"
fi

# invoke-rc.d asks this file before it starts a daemon; 101 means no. One that
# was there before comes back at the end, however the script ends.
policy=/usr/sbin/policy-rc.d
forbid_daemons() {
	# A backup that is still there is from a run that was killed.
	if [ ! -e "$policy.before-weft" ] && [ -e "$policy" ]; then
		mv "$policy" "$policy.before-weft"
	fi
	trap restore_policy EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
}

restore_policy() {
	rm -f "$policy"
	if [ -e "$policy.before-weft" ]; then
		mv -f "$policy.before-weft" "$policy"
	fi
}

# Twice, because mirrors and networks have moments.
apt() {
	local options=(-y -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120
		-o Acquire::Retries=2)
	apt-get "${options[@]}" "$@" && return
	echo "setup: 'apt-get $1' failed; once more" >&2
	sleep 3
	apt-get "${options[@]}" "$@"
}

enabled_units() {
	find /etc/systemd/system -path '*.wants/*' 2>/dev/null | LC_ALL=C sort
}
enabled=$(enabled_units)

export DEBIAN_FRONTEND=noninteractive
echo "setup: installing ${#missing[@]} packages: ${missing[*]}"
forbid_daemons
apt update
apt install --no-install-recommends "${missing[@]}"
# Some enable a unit, for the next boot, even those that policy-rc.d kept from starting.
comm -13 <(echo "$enabled") <(enabled_units) | while IFS= read -r unit; do
	rm -f -- "$unit"
done

mapfile -t missing < <(missing_packages)
if [ ${#missing[@]} -ne 0 ]; then
	echo "setup: still missing: ${missing[*]}" >&2
	exit 1
fi
echo "setup: done"
