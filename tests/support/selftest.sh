#!/usr/bin/env bash
# The harness is tested too: what must fail does fail, and nothing outlives a run.
# usage: selftest.sh CONFINE TWICE FAKE_LIBRARY
# shellcheck disable=SC2016 # it is the inner shells that expand
set -euo pipefail

confine=$1 twice=$2 fake=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

# expect STATUS WHAT CMD…: the command's exit status, with its output in $work/out.
expect() {
	local wanted=$1 what=$2 got=0
	shift 2
	"$@" >"$work/out" 2>&1 || got=$?
	if [ "$got" -ne "$wanted" ]; then
		echo "FAILED: $what: exit status $got, not $wanted"
		sed 's/^/    /' "$work/out"
		failures=$((failures + 1))
	else
		echo "ok: $what"
	fi
}

says() {
	if ! grep -qF -- "$1" "$work/out"; then
		echo "FAILED: it does not say: $1"
		sed 's/^/    /' "$work/out"
		failures=$((failures + 1))
	fi
}

# A number that no other process has on its command line marks ours.
mark=$((100000000 + $$))
next_mark() {
	mark=$((mark + 1))
}
marked() {
	local line
	for line in /proc/[0-9]*/cmdline; do
		local words=()
		{ mapfile -t -d '' words <"$line"; } 2>/dev/null || true
		if [ "${words[*]:0:2}" = "sleep $mark" ]; then
			line=${line#/proc/}
			echo "${line%/cmdline}"
		fi
	done
}
# Two that sleep for the marked time: one below the command, one in its own session
# whose parent has gone.
family="(setsid sleep \$0 &) ; sleep \$0 & wait"

await() { # COUNT
	local i
	for ((i = 0; i < 200; i++)); do
		[ "$(marked | wc -l)" -eq "$1" ] && return 0
		sleep 0.05
	done
	return 1
}

nobody_left() { # WHAT
	if await 0; then
		echo "ok: $1: nobody left"
	else
		echo "FAILED: $1: still there: $(marked | tr '\n' ' ')"
		failures=$((failures + 1))
		marked | xargs -r kill -KILL
	fi
}

# The end of one run, brought about by a signal to one of its processes.
kill_run() { # WHAT SIGNAL WHOM
	local runner watchdog whom
	next_mark
	"$confine" --timeout 100 -- sh -c "$family" "$mark" >"$work/out" 2>&1 &
	runner=$!
	if ! await 2; then
		echo "FAILED: $1: the family did not start"
		failures=$((failures + 1))
	fi
	watchdog=$(cat "/proc/$runner/task/$runner/children")
	case $3 in
	runner) whom=$runner ;;
	watchdog) whom=${watchdog% } ;;
	esac
	kill -s "$2" "$whom"
	wait "$runner" || true
	nobody_left "$1"
}

expect 3 "confine passes the exit status on" "$confine" -- sh -c 'exit 3'
expect 139 "confine passes a signal on" "$confine" -- sh -c 'kill -SEGV $$'
expect 127 "confine: no such command" "$confine" -- /does/not/exist
expect 126 "confine: no command at all" "$confine"
next_mark
expect 124 "confine ends what takes too long" \
	"$confine" --timeout 1 -- sh -c "$family" "$mark"
says "still running after 1 s"
says "state S"
nobody_left "time-out"
next_mark
expect 125 "confine tells of what was left behind" \
	"$confine" --timeout 20 -- sh -c 'setsid sleep $0 & exit 0' "$mark"
says "left behind"
nobody_left "left behind"
kill_run "runner gets SIGTERM" TERM runner
kill_run "runner gets SIGINT" INT runner
kill_run "runner gets SIGKILL" KILL runner
kill_run "watchdog gets SIGKILL" KILL watchdog

# The parent of the runner dies: that is what a killed ctest is.
next_mark
bash -c "\"\$1\" --timeout 100 -- sh -c '$family' $mark & echo \$! >'$work/pid'; wait" \
	sh "$confine" >"$work/out" 2>&1 &
parent=$!
await 2 || echo "the family did not start"
kill -KILL "$parent"
wait "$parent" 2>/dev/null || true
nobody_left "parent of the runner gets SIGKILL"

export FAKE_FIBERS=5
run=("$twice" --library "$fake" --timeout 20)
expect 0 "twice: the same" "${run[@]}" bash -c 'echo out; echo err >&2'
expect 0 "twice: in all configurations" "${run[@]}" --config all true
expect 1 "twice: another output" "${run[@]}" sh -c 'echo $$'
says "stdout differs"
FAKE_STDERR=$'weft: noise\n' expect 1 "twice: more on stderr" "${run[@]}" true
says "+weft: noise"
FAKE_STDERR=$'weft: noise\n' expect 0 "twice: stderr declared irrelevant" \
	"${run[@]}" --ignore-stderr true
FAKE_STATUS=9 expect 1 "twice: another exit status" "${run[@]}" true
says "native: exit status 0, weft: exit status 9"
expect 1 "twice: a native run that fails" "${run[@]}" false
says "native run: exit status 1"
expect 0 "twice: a declared exit status" "${run[@]}" --status 1 false
expect 0 "twice: a declared signal" "${run[@]}" --min-fibers 0 --status SIGTERM \
	sh -c 'kill -TERM $$'
expect 1 "twice: too few fibers" "${run[@]}" --min-fibers 6 true
says "5 fibers created, expected at least 6"
FAKE_FIBERS='' expect 1 "twice: no number of fibers" "${run[@]}" true
(unset FAKE_FIBERS && exec "${run[@]}" true) >"$work/out" 2>&1 &&
	echo "FAILED: twice: no statistics at all" && failures=$((failures + 1))
says "did not run on fibers"
FAKE_FIBERS='' FAKE_STDERR=$'weft: no\n' expect 0 "twice: refused" "${run[@]}" --refused true
FAKE_FIBERS='' expect 1 "twice: refused without a word" "${run[@]}" --refused true
FAKE_STDERR=$'weft: no\n' expect 1 "twice: not refused" "${run[@]}" --refused true
expect 1 "twice: not dormant" "${run[@]}" --dormant true
FAKE_FIBERS=0 expect 0 "twice: dormant" "${run[@]}" --dormant true
FAKE_HANG=1 expect 1 "twice: a hang under weft" \
	"$twice" --library "$fake" --timeout 1 true
says "still running after 1 s"
expect 0 "twice: statistics from stderr" "${run[@]}" --stats-on-stderr bash -c 'echo err >&2'
FAKE_FIBERS='' expect 1 "twice: none on stderr" "${run[@]}" --stats-on-stderr bash -c 'echo err >&2'
expect 77 "twice: a skip" "${run[@]}" sh -c 'echo no such kernel; exit 77'
says "no such kernel"
expect 0 "twice: record" "$twice" --record "$work/record" echo hello
expect 0 "twice: against the record" "${run[@]}" --against "$work/record" echo hello
expect 1 "twice: against another record" "${run[@]}" --against "$work/record" echo other
expect 1 "twice: without a record" "${run[@]}" --against "$work/none" echo hello
expect 0 "twice: only weft" "${run[@]}" --weft-only "too large" true
expect 1 "twice: only weft, failing" "${run[@]}" --weft-only "too large" false
expect 1 "twice: unknown configuration" "${run[@]}" --config nonsense true
WEFT_SEED=42 expect 0 "twice: a given seed" "${run[@]}" --config shuffle \
	bash -c 'test "$WEFT_SEED" = 42'
says "WEFT_SEED=42"

echo "$failures failures"
[ "$failures" -eq 0 ]
