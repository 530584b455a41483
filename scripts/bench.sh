#!/usr/bin/env bash
# Threads natively and under weft, in one interleaved run on one core.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
	cat <<'END'
usage: scripts/bench.sh [OPTION]...

Measures natively and under weft by turns (A B A B ...), everything on CPU 0:
create + join, handing a turn over (condition variable, semaphore), yield,
100,000 threads alive at once, 10,000 sleepers, 1,000 threads that ask and answer
beside two that compute, 200 beside ten pairs that hand a turn to and fro, and
demos/echo with 1, 100, 1,000 and 10,000 connections. Prints a Markdown table:
medians, in brackets the smallest and largest, and ratios.

  --rounds N       rounds (5)
  --seconds S      time to measure each echo run (1.5)
  --quick          2 rounds with small numbers, to see that it works
  --only NAMES     of micro, spawn, sleep, hogs, turns, echo; with commas
  --native-only    natively only
  --build-dir DIR  use what is built there; install and build nothing
  -h               this text

Compare within one table only. Natively, 100,000 threads fill the machine's
table of processes for a second or two (kernel.pid_max), and others cannot
start any; that one is done once, in the first round.
END
}

rounds=
seconds=
quick=false
only=micro,spawn,sleep,hogs,turns,echo
hog_pauses=(100 25)
turn_pause=20
modes=(native weft)
build_dir=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	--quick) quick=true ;;
	--native-only) modes=(native) ;;
	--rounds | --seconds | --only | --build-dir)
		[ $# -ge 2 ] || fail "$1 needs a value"
		case $1 in
		--rounds) rounds=$2 ;;
		--seconds) seconds=$2 ;;
		--only) only=$2 ;;
		--build-dir) build_dir=$2 ;;
		esac
		shift
		;;
	*) usage >&2 && exit 2 ;;
	esac
	shift
done
if $quick; then
	rounds=${rounds:-2}
	seconds=${seconds:-0.3}
	handed=20000 created=5000 yielded=100000 spawned=5000
	sleeping=1000 slept=0.5 hogged=1
	echo_conns=(1 100)
else
	rounds=${rounds:-5}
	seconds=${seconds:-1.5}
	handed=200000 created=50000 yielded=500000 spawned=100000
	sleeping=10000 slept=3 hogged=3
	echo_conns=(1 100 1000 10000)
fi
[[ $rounds =~ ^[1-9][0-9]*$ ]] || fail "--rounds $rounds is not a number"
[[ $seconds =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "--seconds $seconds is not a time"
for word in ${only//,/ }; do
	case $word in
	micro | spawn | sleep | hogs | turns | echo) ;;
	*) fail "--only $word: there are micro, spawn, sleep, hogs, turns, echo" ;;
	esac
done

wanted() {
	[[ ,$only, == *,$1,* ]]
}

begin_work
# For launch(), read there.
# shellcheck disable=SC2034
pin=0 favoured=true
failures=0
declare -A samples=()	# "NAME MODE" -> values

sample() {
	samples["$1 $2"]+=" $3"
}

# Just wait: a loop that looks every now and then would take its time from the
# CPU that is measured, and could not fork at all while threads fill the table
# of processes. Both programs end by themselves, in the worst case by an alarm.
run_launched() {
	local pid=$launched_pid status=0
	wait "$pid" || status=$?
	unset "launched[$pid]"
	return "$status"
}

set_prefix() {
	prefix=()
	[ "$1" = native ] || prefix=("$build/weft")
}

broken() {
	say "FAILED: $1"
	show_log "$2"
	failures=$((failures + 1))
	keep_work=true
}

# micro MODE ARG...: run it, its line in $result.
micro() {
	local mode=$1 log=$work/micro
	shift
	set_prefix "$mode"
	detail "round $round of $rounds: $*, $mode"
	launch "$log" "${prefix[@]}" "$demos/micro" "$@"
	if ! run_launched; then
		broken "micro $*, $mode" "$log"
		result=()
		return 1
	fi
	read_result "$log"
}

one_micro() {
	local what=$1 count=$2 mode
	for mode in "${modes[@]}"; do
		micro "$mode" "$what" "$count" || continue
		sample "$what" "$mode" "${result[ns_each]}"
	done
}

one_spawn() {
	local mode key
	for mode in "${modes[@]}"; do
		micro "$mode" spawn "$spawned" 16 || continue
		for key in alive create_s finish_s rss_kb_each memavail_kb_each; do
			sample "spawn_$key" "$mode" "${result[$key]}"
		done
	done
}

one_sleep() {
	local mode key
	for mode in "${modes[@]}"; do
		micro "$mode" sleep "$sleeping" "$slept" || continue
		for key in wakes p50_us p99_us cpu_us_per_wake; do
			sample "sleep_$key" "$mode" "${result[$key]}"
		done
	done
}

# beside WHAT N OTHERS MS NAME CPU: on that CPU, or on all. There nobody is favoured: in
# a session of greater weight the kernel leaves the thread that makes the others
# without a CPU.
beside() {
	local what=$1 n=$2 others=$3 ms=$4 name=$5 pin=$6 favoured=$favoured mode key
	[ -n "$pin" ] || favoured=false
	for mode in "${modes[@]}"; do
		micro "$mode" "$what" "$n" "$others" "$hogged" "$ms" || continue
		for key in answers p50_us p99_us computed turns; do
			[ -z "${result[$key]:-}" ] || sample "${what}${ms}_${name}_$key" "$mode" "${result[$key]}"
		done
	done
}

# beside_on_all WHAT N OTHERS MS: on one CPU, then on all.
beside_on_all() {
	beside "$@" one "$pin"
	[ "$(nproc)" -eq 1 ] || beside "$@" all ''
}

one_echo() {
	local n=$1 mode key pid log=$work/echo
	for mode in "${modes[@]}"; do
		set_prefix "$mode"
		detail "round $round of $rounds: echo, $n connections, $mode"
		choose_port
		launch "$log.server" "${prefix[@]}" "$demos/echo" "$port" 16
		pid=$launched_pid
		if ! await_server "$pid" "$port"; then
			broken "echo did not start, $mode" "$log.server"
			stop "$pid" || true
			continue
		fi
		launch "$log.load" "$demos/load" echo --port "$port" \
			--pid "$pid" --conns "$n" --seconds "$seconds" \
			--bytes 64 --warmup 0.5
		if run_launched; then
			read_result "$log.load"
			for key in srv_cpu_us_per_req rps p50_us p99_us \
				srv_threads srv_memavail_per_conn_kb; do
				sample "echo${n}_$key" "$mode" "${result[$key]}"
			done
		else
			broken "echo, $n connections, $mode" "$log.load"
		fi
		stop "$pid" || broken "echo ended with an error, $mode" \
			"$log.server"
	done
}

# row TEXT NAME UNIT BETTER: a line of the table. UNIT ns and us choose the
# scale, others are said as they are. BETTER (less, more, -) makes the ratio
# the one by which weft is better.
row() {
	local text=$1 name=$2 unit=$3 better=$4
	[ -n "${samples["$name native"]:-}${samples["$name weft"]:-}" ] || return 0
	awk -v text="$text" -v unit="$unit" -v better="$better" \
		-v a="${samples["$name native"]:-}" \
		-v b="${samples["$name weft"]:-}" '
	function read_in(list, into,    n, i, j, x) {
		n = split(list, into, " ")
		for (i = 2; i <= n; i++) {
			x = into[i] + 0
			for (j = i - 1; j >= 1 && into[j] + 0 > x; j--)
				into[j + 1] = into[j]
			into[j + 1] = x
		}
		return n
	}
	function median(n, v) {
		return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
	}
	function number(x,    y) {
		y = x < 0 ? -x : x
		if (x == int(x))
			return sprintf("%d", x)
		return sprintf(y >= 100 ? "%.0f" : y >= 10 ? "%.1f" : "%.2f", x)
	}
	function scaled(x, scale) {
		return number(x / scale)
	}
	function cell(n, v,    m, scale, u) {
		if (!n)
			return "-"
		m = median(n, v)
		scale = 1
		u = unit
		if (unit == "us")
			u = "µs"
		if (unit == "ns" && m >= 1000) {
			scale = 1000
			u = "µs"
		} else if (unit == "us" && m >= 1000) {
			scale = 1000
			u = "ms"
		}
		u = u == "" ? "" : " " u
		if (n == 1)
			return scaled(m, scale) u
		return scaled(m, scale) u " (" scaled(v[1], scale) ".." \
			scaled(v[n], scale) ")"
	}
	BEGIN {
		na = read_in(a, va)
		nb = read_in(b, vb)
		ratio = "-"
		if (na && nb && better != "-") {
			x = median(na, va)
			y = median(nb, vb)
			if (better == "more") {
				t = x; x = y; y = t
			}
			if (x > 0 && y > 0)
				ratio = number(x / y) "x"
		}
		printf "| %s | %s | %s | %s |\n", text, cell(na, va),
			cell(nb, vb), ratio
	}'
}

# beside_rows NAME TEXT KEY DONE
beside_rows() {
	local on note
	for on in one all; do
		note=
		[ "$on" = one ] || note=', on all CPUs'
		row "$2$note: p50" "$1_${on}_p50_us" us less
		row '... p99' "$1_${on}_p99_us" us less
		row '... answers' "$1_${on}_answers" '' more
		row "... $4" "$1_${on}_$3" '' more
	done
}

table() {
	local n
	echo '| on one core | native | weft | weft is better by |'
	echo '|---|---|---|---|'
	row 'create + join' serial ns less
	row 'mutex + condition variable, one way' cond ns less
	row 'semaphore, one way' sem ns less
	row 'sched_yield' yield ns less
	row "of $(with_commas "$spawned") threads, alive at once" \
		spawn_alive '' more
	row '... to create them' spawn_create_s s -
	row '... to end and join them' spawn_finish_s s -
	row '... memory each (RSS)' spawn_rss_kb_each KiB less
	row '... memory each (MemAvailable)' spawn_memavail_kb_each KiB less
	row "$(with_commas "$sleeping") sleepers of 1-100 ms: late, p50" \
		sleep_p50_us us less
	row '... late, p99' sleep_p99_us us less
	row '... CPU per wake' sleep_cpu_us_per_wake us less
	for n in "${hog_pauses[@]}"; do
		beside_rows "hogs${n}" "1,000 threads ask every $n ms, or answer, beside two that compute" \
			computed 'what the two get done'
	done
	beside_rows "turns$turn_pause" "200 threads ask every $turn_pause ms, or answer, beside ten pairs that hand over a turn" \
		turns 'turns of the pairs'
	for n in "${echo_conns[@]}"; do
		row "echo, connections: $(with_commas "$n"); server CPU per request" \
			"echo${n}_srv_cpu_us_per_req" us less
		row '... requests/s' "echo${n}_rps" '' more
		row '... p50' "echo${n}_p50_us" us less
		row '... p99' "echo${n}_p99_us" us less
		row '... kernel threads' "echo${n}_srv_threads" '' -
		# With few connections this is only other people's memory.
		[ "$n" -lt 1000 ] ||
			row '... memory per connection (MemAvailable)' \
				"echo${n}_srv_memavail_per_conn_kb" KiB less
	done
}

# ----------------------------------------------------------------------

# What is said on the way goes to stderr: stdout has the table alone.
exec 3>&1 >&2
if [ -z "$build_dir" ]; then
	"$root/scripts/setup.sh" --no-checks || fail "scripts/setup.sh failed"
	build_release
	build_dir=$root/build/release
fi
use_build "$(cd "$build_dir" && pwd)"
if [[ " ${modes[*]} " == *" weft "* ]]; then
	[ -x "$build/weft" ] || fail "there is no $build/weft"
fi
hard=$(ulimit -Hn)
prefix=()

for ((round = 1; round <= rounds; round++)); do
	if wanted micro; then
		one_micro serial "$created"
		one_micro cond "$handed"
		one_micro sem "$handed"
		one_micro yield "$yielded"
	fi
	if wanted spawn && [ "$round" -eq 1 ]; then
		one_spawn
	fi
	if wanted sleep; then
		one_sleep
	fi
	if wanted hogs; then
		for n in "${hog_pauses[@]}"; do
			beside_on_all hogs 1000 2 "$n"
		done
	fi
	if wanted turns; then
		beside_on_all turns 200 10 "$turn_pause"
	fi
	if wanted echo; then
		for n in "${echo_conns[@]}"; do
			if [ "$hard" != unlimited ] &&
				[ $((n + 200)) -gt "$hard" ]; then
				say "echo, $n connections: left out, the limit" \
					"of descriptors is $hard"
				continue
			fi
			one_echo "$n"
		done
	fi
	say "round $round of $rounds done"
done

exec >&3
table
echo
cat <<END
Made by \`scripts/bench.sh --rounds $rounds\` on $(nproc) CPUs of
"$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)", Linux $(uname -r);
server, generator and micro benchmarks all on CPU 0, but where a row says otherwise; medians (min..max).
END
if [ "$failures" -gt 0 ]; then
	echo
	echo "$failures runs failed"
	exit 1
fi
