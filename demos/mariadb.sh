#!/usr/bin/env bash
# MariaDB: a thread per connection natively, its own thread pool, and weft.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"

usage() {
	cat <<'END'
usage: demos/mariadb.sh [OPTION]...

Runs Debian's mariadbd three times: as it comes (a kernel thread for each
connection), with its own pool-of-threads, and as it comes under weft. All
three are up at once, with data of their own in a temporary folder; sysbench
(natively) loads one after the other, by turns. Prints medians: transactions
per second and latency (with the lowest and highest of the runs), CPU time of
the server for a transaction, its kernel threads; then what idle connections
cost.

  --clients "N..."  how many connections ("16 128 1024 4096")
  --tests "T..."    sysbench's scripts ("oltp_point_select")
  --idle N          idle connections (5000)
  --seconds S       of each run (10; 40 with more than 2,000 clients)
  --repeat R        rounds (3)
  --quick           "16 128", one round of one second, 500 idle ones
  --build-dir DIR   use what is built there; install and build nothing
  -h                this text

Runs of seconds only measure how sysbench begins and ends: of 4,096 connections
the last requests alone are one in a hundred of the first 13 seconds. So runs
with thousands are longer.

KiB each is what the machine had less of (MemAvailable), both ends of the
connection included; RSS is the server's. Compare within one table only.
END
}

clients=(16 128 1024 4096)
tests=(oltp_point_select)
idle=5000
seconds=
rounds=3
build_dir=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	--quick)
		clients=(16 128)
		idle=500
		seconds=1
		rounds=1
		;;
	--clients | --tests | --idle | --seconds | --repeat | --build-dir)
		[ $# -ge 2 ] || fail "$1 needs a value"
		case $1 in
		--clients) read -ra clients <<<"$2" ;;
		--tests) read -ra tests <<<"$2" ;;
		--idle) idle=$2 ;;
		--seconds) seconds=$2 ;;
		--repeat) rounds=$2 ;;
		--build-dir) build_dir=$2 ;;
		esac
		shift
		;;
	*) usage >&2 && exit 2 ;;
	esac
	shift
done
for number in "${clients[@]}" "$idle" "${seconds:-1}" "$rounds"; do
	[[ $number =~ ^[1-9][0-9]*$ ]] || fail "$number is not a number"
done
PATH=$PATH:/usr/sbin:/sbin

begin_work
if [ -z "$build_dir" ]; then
	"$root/scripts/setup.sh" --also "mariadb-server sysbench" ||
		fail "scripts/setup.sh failed"
	build_release
	build_dir=$root/build/release
fi
use_build "$(cd "$build_dir" && pwd)"
for needed in mariadbd sysbench mariadb-install-db; do
	command -v "$needed" >/dev/null || fail "$needed is not installed"
done
helper=(/usr/bin/python3 "$root/demos/bench/mariadb.py")

# The load needs a descriptor for each connection, as the server does.
hard=$(ulimit -Hn)
[ "$hard" = unlimited ] || [ "$idle" -le $((hard - 500)) ] || idle=$((hard - 500))
ulimit -Sn "$hard"

modes=(threads pool-of-threads weft)
declare -A server_pid=() server_port=()
as_user=()
[ "$(id -u)" -ne 0 ] || as_user=(--user=root)

sql() {
	mariadb --no-defaults --socket="$work/$1/sock" -uroot -N -e "$2"
}

start_mode() {
	local mode=$1 handling=one-thread-per-connection prefix=() i
	[ "$mode" != pool-of-threads ] || handling=pool-of-threads
	[ "$mode" != weft ] || prefix=("$build/weft")
	choose_port
	cp -a "$work/data" "$work/$mode"
	launch "$work/$mode.log" "${prefix[@]}" mariadbd --no-defaults "${as_user[@]}" \
		--datadir="$work/$mode" --socket="$work/$mode/sock" --port="$port" \
		--bind-address=127.0.0.1 --pid-file="$work/$mode/pid" \
		--log-error="$work/$mode.error" --thread-handling=$handling \
		--max-connections=30000 --back-log=4096 --thread-cache-size=256 \
		--innodb-buffer-pool-size=256M --innodb-flush-log-at-trx-commit=2 \
		--performance-schema=OFF --skip-name-resolve --max-connect-errors=1000000 \
		--max-prepared-stmt-count=1000000 --connect-timeout=120
	server_pid[$mode]=$launched_pid
	server_port[$mode]=$port
	for ((i = 0; i < 300; i++)); do
		sql "$mode" 'select 1' >/dev/null 2>&1 && return 0
		sleep 0.1
	done
	show_log "$work/$mode.error"
	keep_work=true
	fail "$mode: the server does not answer"
}

bench=(sysbench --db-driver=mysql --mysql-host=127.0.0.1 --mysql-user=root --mysql-db=sbtest
	--tables=1 --table-size=10000 --percentile=99 --histogram=on
	"--mysql-ignore-errors=1213,1020,1205")

cpu_us() {
	awk -v hz="$(getconf CLK_TCK)" '{
		sub(/.*\) /, ""); printf "%.0f", ($12 + $13) * 1e6 / hz
	}' "/proc/$1/stat"
}

kernel_threads() {
	# find(1) fails of one that ends while it looks; the kernel counts them itself.
	awk '/^Threads:/ {print $2}' "/proc/$1/status"
}

# run_load MODE TEST CLIENTS ROUND
run_load() {
	local mode=$1 test=$2 n=$3 log=$work/$1-$2-$3-$4.txt
	local seconds=${seconds:-$((n > 2000 ? 40 : 10))}
	local pid=${server_pid[$1]} before threads
	before=$(cpu_us "$pid")
	launch "$log" "${bench[@]}" --mysql-port="${server_port[$mode]}" "$test" \
		--threads="$n" --time="$seconds" run
	sleep "$(awk -v s="$seconds" 'BEGIN { print s * 0.8 }')"
	threads=$(kernel_threads "$pid")
	if ! finish "$launched_pid" $((seconds + 120)) "$test, $n clients, $mode"; then
		show_log "$log"
		show_log "$work/$mode.error"
		keep_work=true
		fail "$mode, $test with $n clients: sysbench failed"
	fi
	kill -0 "$pid" 2>/dev/null || fail "$mode: the server ended under load"
	echo "test=$test clients=$n mode=$mode log=$log threads=$threads" \
		"cpu_us=$(($(cpu_us "$pid") - before))" >>"$work/rows"
}

run_idle() {
	local mode=$1 pid=${server_pid[$1]}
	launch "$work/hold.txt" "${helper[@]}" hold "${server_port[$mode]}" "$idle" "$pid"
	finish "$launched_pid" 180 "$idle idle connections, $mode" || {
		show_log "$work/hold.txt"
		keep_work=true
		fail "$mode: $idle idle connections were too many"
	}
	echo "clients=$idle mode=$mode $(tail -n 1 "$work/hold.txt")" >>"$work/rows"
}

# ----------------------------------------------------------------------

status "making the data"
mkdir "$work/data"
mariadb-install-db --no-defaults "${as_user[@]}" --datadir="$work/data" \
	--auth-root-authentication-method=normal --skip-test-db \
	>"$work/install.log" 2>&1 || fail "mariadb-install-db: $(tail -n 3 "$work/install.log")"
for mode in "${modes[@]}"; do
	status "starting: $mode"
	start_mode "$mode"
	sql "$mode" 'create database sbtest'
	"${bench[@]}" --mysql-port="${server_port[$mode]}" oltp_read_write prepare \
		>"$work/$mode.prepare" 2>&1 || fail "sysbench: $(tail -n 3 "$work/$mode.prepare")"
done
for ((round = 0; round < rounds; round++)); do
	# Who is first in one round is last in the next: what a run leaves behind
	# (warm caches, a busy kernel) is not always the same one's to bear.
	turn=("${modes[@]:round % 3}" "${modes[@]:0:round % 3}")
	for test in "${tests[@]}"; do
		for n in "${clients[@]}"; do
			for mode in "${turn[@]}"; do
				status "round $((round + 1)) of $rounds: $test, $n clients, $mode"
				run_load "$mode" "$test" "$n" "$round"
			done
		done
	done
	for mode in "${turn[@]}"; do
		status "round $((round + 1)) of $rounds: $idle idle connections, $mode"
		run_idle "$mode"
	done
done
$is_terminal && printf '\r\033[K'
echo
"${helper[@]}" table "$work/rows"
echo
for mode in "${modes[@]}"; do
	sql "$mode" 'check table sbtest.sbtest1' | grep -q 'status.*OK' ||
		fail "$mode: the table is damaged"
	status=0
	kill -TERM "${server_pid[$mode]}"
	finish "${server_pid[$mode]}" 60 "stopping: $mode" || status=$?
	[ "$status" -eq 0 ] || fail "$mode: the server ended with status $status"
done
say "all tables are intact, all servers ended with status 0"
