#!/usr/bin/env bash
# Install, build and run all tests.
set -euo pipefail

usage() {
	cat <<'END'
usage: scripts/test.sh [OPTION]...

On a bare Debian 12 machine: installs what is needed (scripts/setup.sh), builds
with the presets release and asan, and runs the unit tests under the address and
undefined-behaviour sanitizers, then everything in the release build. Call tests
and whole programs run natively first, then under weft in several ways (one
carrier, many, one CPU, forced migration …); the two must not differ.

  -R REGEX      only tests whose name matches, in the release build
  -L REGEX      only tests with such a label: unit, calls, program, stress,
                server, harness; native, default, carriers1, migrate, storm …
  --later       also tests of what is not done yet (labels later3 …)
  --no-setup    install nothing
  --no-asan     leave the sanitizers out
  --limit S     stop everything after S seconds of testing (1000)
  -h            this text

Exit status 0 when all pass. Whenever this script or one of the tests is killed,
by whatever signal, no process of theirs stays behind.
END
}

setup=true
asan=true
later=false
limit=1000
select=()
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	-R | -L | --limit)
		if [ $# -lt 2 ]; then
			echo "test: $1 needs a value" >&2
			exit 2
		fi
		if [ "$1" = --limit ]; then
			limit=$2
		else
			select+=("$1" "$2")
			asan=false
		fi
		shift
		;;
	--later) later=true ;;
	--no-setup) setup=false ;;
	--no-asan) asan=false ;;
	*) usage >&2 && exit 2 ;;
	esac
	shift
done
if ! [[ $limit =~ ^[1-9][0-9]*$ ]]; then
	echo "test: --limit $limit is not a number of seconds" >&2
	exit 2
fi
$later || select+=(-LE 'later[0-9]')

cd "$(dirname "${BASH_SOURCE[0]}")/.."
jobs=$(nproc)
# Tests wait a good part of their time.
tests_at_once=$((jobs + 1))
begun=$SECONDS

step() {
	printf '== [%3d s] %s\n' $((SECONDS - begun)) "$*"
}

build() { # PRESET
	step "building: $1"
	cmake --preset "$1" >"build/$1.log" 2>&1 &&
		cmake --build --preset "$1" -j "$jobs" >>"build/$1.log" 2>&1 && return
	cat "build/$1.log"
	echo "test: the build with preset $1 failed" >&2
	exit 1
}

# ctest dies with this shell, and each test with ctest (tests/support/confine.c).
run() { # BUILD ARG...
	local left=$((limit - (SECONDS - testing))) status=0
	local names=$1/Testing/Temporary/LastTestsFailed.log
	rm -f "$names"
	if [ "$left" -le 0 ]; then
		left=1
	fi
	setpriv --pdeathsig KILL -- timeout --foreground -k 10 "$left" \
		setpriv --pdeathsig KILL -- \
		ctest --test-dir "$@" -j "$tests_at_once" --output-on-failure --no-tests=error ||
		status=$?
	if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
		echo "test: stopped after $limit s (--limit)" >&2
	fi
	if [ "$status" -ne 0 ]; then
		failed+=("$1: $(grep -hs . "$names" | tr '\n' ' ')")
	fi
	return "$status"
}


if $setup; then
	step "installing"
	scripts/setup.sh
fi
mkdir -p build
build release
if $asan; then
	build asan
fi
testing=$SECONDS
result=0
failed=() # for the end: what comes last is what is seen of a long output
if $asan; then
	step "unit tests with sanitizers"
	run build/asan -L unit || result=1
fi
step "all tests"
run build/release "${select[@]}" || result=1
if [ "$result" -eq 0 ]; then
	step "passed"
else
	step "FAILED"
	printf '%s\n' "${failed[@]}"
fi
exit "$result"
