#!/bin/sh
# What weft says about pins, native libraries and the cap: each thing in one line, once,
# and the program does not notice.
#
# usage: messages.sh LIBWEFT FOLDER LATE
#   FOLDER has the programs, LATE is the library that native_frames loads
set -eu
lib=$1 programs=$2 late=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

fail() {
	echo "messages: $name: $*"
	sed 's/^/    /' "$dir/err"
	failed=1
}

# run NAME VARIABLE=VALUE… -- PROGRAM ARG…: exit status 0, and stdout as natively.
run() {
	name=$1
	shift
	settings=
	while [ "$1" != -- ]; do
		settings="$settings $1"
		shift
	done
	shift
	"$@" >"$dir/native" 2>/dev/null || fail "natively: status $?"
	# shellcheck disable=SC2086
	env $settings LD_PRELOAD="$lib" "$@" >"$dir/out" 2>"$dir/err" || fail "status $?"
	cmp -s "$dir/native" "$dir/out" || fail "stdout differs"
}

# lines N PATTERN: so many of stderr's match.
lines() {
	n=$(grep -cE "$2" "$dir/err" || true)
	[ "$n" -eq "$1" ] || fail "$n lines and not $1 have: $2"
}

run unmet WEFT_NATIVE=libc.so.6,libnothing.so,libneither.so.3 -- "$programs/unpins"
lines 1 '^weft: WEFT_NATIVE: no library libnothing.so was loaded when the process ended$'
lines 1 '^weft: WEFT_NATIVE: no library libneither.so.3 was loaded when the process ended$'
lines 1 'weft_unpin\(\) without'
lines 3 ''

for value in /lib/libfoo.so "libfoo.so," "," ../libfoo.so; do
	run "implausible $value" "WEFT_NATIVE=$value" -- "$programs/unpins"
	lines 1 "^weft: WEFT_NATIVE='.*' is not understood; allowed: .*; the default is used: none"
	lines 1 '^weft: weft_unpin\(\) without a weft_pin\(\) before: nothing is done$'
	lines 2 ''
done

run no_cap WEFT_CARRIERS_CAP=0 -- "$programs/unpins"
lines 1 "^weft: WEFT_CARRIERS_CAP='0' is not understood; allowed: .*; the default is used: 256"
lines 1 'weft_unpin\(\) without'
lines 2 ''

run trace WEFT_TRACE=pin WEFT_NATIVE=libnative_library.so,libnative_late.so -- \
	"$programs/native_frames" "$late"
where='weft: pin: thread [0-9]* "native_frames" keeps its kernel thread: native frame at'
lines 1 "^$where libnative_library.so\+0x[0-9a-f]*, while it waits: [a-z]+\$"
lines 1 "^$where libnative_late.so\+0x[0-9a-f]*, while it waits: [a-z]+\$"
lines 2 ''

run trace_calls WEFT_TRACE=pin -- "$programs/pins"
lines 3 '^weft: pin: thread [0-9]+ "pins" keeps its kernel thread: weft_pin at pins\+0x[0-9a-f]+$'
lines 3 ''

run stats WEFT_STATS=exit WEFT_NATIVE=libnative_library.so,libnative_late.so -- \
	"$programs/native_frames" "$late"
lines 1 '^weft stats: pin site=0x[0-9a-f]* reason=native_frame where=libnative_library.so\+0x[0-9a-f]* count=[1-9][0-9]* total_us=[1-9]'
lines 1 '^weft stats: pins weft_pin=0 native_frame=[1-9][0-9]* bound=0'
lines 1 '^weft stats: milliseconds_carriers_were_held=[1-9]'

for how in block compute; do
	run "cap $how" WEFT_CARRIERS=2 WEFT_CARRIERS_CAP=3 -- "$programs/stuck_$how" $how
	kept='thread [0-9]+ "stuck_'$how'" (computes|is blocked)'
	lines 1 "^weft: all kernel threads are kept, more than the cap of 3 are made: .*$kept,? (perhaps )?at stuck_$how\+0x"
done
run 'cap pinned' WEFT_CARRIERS=2 WEFT_CARRIERS_CAP=3 \
	WEFT_NATIVE=libnative_library.so,libnative_late.so -- "$programs/native_frames" "$late"
lines 1 'more than the cap of 3 are made: .* waits pinned at .* < libnative_library.so\+0x'
exit $failed
