#!/usr/bin/env bash
# Threads by the million, and random schedules for long: nothing may be left, hang, differ.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
	cat <<'END'
usage: scripts/stress.sh [OPTION]...

First a million threads that are joined, and a million detached ones, under weft as it
comes; the latter without libc's cache of stacks, and with memory that is overwritten when
it is freed. Then a library is loaded and unloaded 100000 times while threads come and go.
Then rounds until the time is over, each with a seed of its own and in the next
configuration of the tests (default, one carrier, eight, one CPU, forced migration …):
soak (threads of every kind) and the tests of tests/stress.

Every program runs natively with the same seed, too, and says the same, or it is a
difference. A hang is ended at the limit and shown, with its backtraces. Leaks are
looked for inside (tests/stress/soak.c: memory, descriptors, mappings, from a quarter
of the way to its end) and by weft's statistics at the end (fibers alive).

  --seconds S      how long the rounds go on (180)
  --rounds N       at most so many rounds
  --threads N      of each of the first two (1000000)
  --loads N        of the library (100000)
  --seed N         of the first round (random); each round adds one
  --config NAME    only this configuration; may be given several times
  --build-dir DIR  use what is built there; build nothing
  -h               this text

Exit status: 0 when all was well; 1 otherwise. To repeat a round that failed, give its
seed and configuration, and --rounds 1.
END
}

seconds=180
rounds=1000000
threads=1000000
loads=100000
seed=$((RANDOM << 15 | RANDOM))
configs=()
build_dir=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	--seconds | --rounds | --threads | --loads | --seed | --config | --build-dir)
		[ $# -ge 2 ] || fail "$1 needs a value"
		case $1 in
		--seconds) seconds=$2 ;;
		--rounds) rounds=$2 ;;
		--threads) threads=$2 ;;
		--loads) loads=$2 ;;
		--seed) seed=$2 ;;
		--config) configs+=("$2") ;;
		--build-dir) build_dir=$(realpath -- "$2") ;;
		esac
		shift
		;;
	*) usage >&2 && exit 2 ;;
	esac
	shift
done
for number in "$seconds" "$rounds" "$threads" "$loads" "$seed"; do
	[[ $number =~ ^[0-9]+$ ]] || fail "'$number' is not a number"
done
[ ${#configs[@]} -gt 0 ] ||
	configs=(default carriers1 carriers8 cpu0 migrate wouldblock shuffle storm)

begin_work
if [ -z "$build_dir" ]; then
	build_release
	build_dir=$root/build/release
fi
tests=$build_dir/tests
library=$build_dir/libweft.so
soak=$tests/stress/programs/soak_mixed
[ -x "$soak" ] || fail "$soak is not built"

failures=0
# run LABEL LIMIT COMMAND...: what went wrong is shown, with how to repeat it.
run() {
	local label=$1 limit=$2 status=0 log
	shift 2
	log=$work/$((++runs)).log
	launch "$log" "$@"
	finish "$launched_pid" "$limit" "$label" || status=$?
	if [ "$status" -eq 0 ]; then
		rm -f "$log"
		return
	fi
	failures=$((failures + 1))
	keep_work=true
	say "FAILED: $label (status $status, WEFT_SEED=$WEFT_SEED)"
	show_log "$log"
}
runs=0

# twice itself limits each run, natively and under weft, to $limit.
compare() { # LABEL CONFIG LIMIT PROGRAM...
	local label=$1 config=$2 limit=$3
	shift 3
	run "$label, $config" $((limit * 3)) "$tests/twice" --library "$library" \
		--config "$config" --timeout "$limit" -- "$@"
}

# alone FILE: the last report in it says that the main fiber is alone.
alone() {
	grep -q '^weft stats: fibers created=[0-9]* alive=1 ' <(tail -n 100 "$1" | grep created= | tail -n 1)
}

export WEFT_SEED=$seed
say "seed $seed"
for kind in join detached; do
	[ "$threads" -gt 0 ] || break
	memory=()
	[ "$kind" = join ] ||
		memory=(MALLOC_PERTURB_=165 GLIBC_TUNABLES=glibc.pthread.stack_cache_size=65536)
	run "$threads threads, $kind" 600 "$tests/confine" --timeout 300 -- env "${memory[@]}" \
		"LD_PRELOAD=$library" "WEFT_STATS=$work/$kind.stats" "$soak" "$kind" "$threads"
	if [ ! -s "$work/$kind.stats" ] || ! alone "$work/$kind.stats"; then
		failures=$((failures + 1))
		keep_work=true
		say "FAILED: $threads threads, $kind: fibers are left, or weft was not at work"
		show_log "$work/$kind.stats"
	else
		say "$threads threads, $kind: $(sed -n 's/^weft stats: fibers //p' "$work/$kind.stats")"
	fi
done

[ "$loads" -eq 0 ] ||
	compare "a library loaded $loads times" default $((60 + loads / 50)) \
		"$tests/programs/programs/dlopen_threads" "$tests/programs/libtls_library.so" "$loads"

# A test of tests/stress, test by test, each a process of its own.
stress_test() { # NAME CONFIG
	run "$1, $2" 900 "$tests/twice" --gtest --config "$2" --library "$library" \
		--timeout 120 -- "$tests/stress/calls_$1"
}

until=$((SECONDS + seconds))
for ((round = 0; round < rounds && SECONDS < until; round++)); do
	export WEFT_SEED=$((seed + round))
	config=${configs[round % ${#configs[@]}]}
	before=$failures
	compare "round $round: soak" "$config" 120 "$soak" mixed 20000
	for test in cond_storm_test transfer_storm_test create_storm_test; do
		[ "$SECONDS" -lt "$until" ] || break
		stress_test "$test" "$config"
	done
	[ "$failures" -ne "$before" ] || detail "round $round (seed $WEFT_SEED, $config) was good"
done
if [ "$failures" -gt 0 ]; then
	say "$failures failures in $runs runs"
	exit 1
fi
say "$runs runs in $round rounds, no leak, no hang, no difference"
