#!/usr/bin/env bash
# Unmodified servers, natively and under weft, with the same load.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
	cat <<END
usage: scripts/demo.sh [OPTION]...

Runs real thread-per-connection servers first natively and then under weft,
with the same load: that many connections open at once, every returned byte
compared. Ends with a table. On a bare Debian 12 machine it first installs
what it needs (scripts/setup.sh) and builds (cmake --preset release).

  --conns N        connections at once (1000; echo is shown with 10,000, too)
  --seconds S      time to measure each server (2.5)
  --only NAME      only this server; may be given several times
                   (${server_names[*]})
  --quick          200 connections, half a second each, no echo with 10,000
  --native-only    natively only
  --weft-only      under weft only
  --build-dir DIR  use what is built there; install and build nothing
  -h               this text

Exit status: 0 when every server answered every request rightly, natively and
under weft; 1 otherwise.
END
}

conns=
seconds=
many=10000
names=()
modes=(native weft)
build_dir=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	--quick)
		conns=${conns:-200}
		seconds=${seconds:-0.5}
		many=0
		;;
	--native-only) modes=(native) ;;
	--weft-only) modes=(weft) ;;
	--conns | --seconds | --only | --build-dir)
		[ $# -ge 2 ] || fail "$1 needs a value"
		case $1 in
		--conns) conns=$2 ;;
		--seconds) seconds=$2 ;;
		--only)
			[[ " ${server_names[*]} " == *" $2 "* ]] ||
				fail "--only $2: there are ${server_names[*]}"
			names+=("$2")
			;;
		--build-dir) build_dir=$2 ;;
		esac
		shift
		;;
	*) usage >&2 && exit 2 ;;
	esac
	shift
done
conns=${conns:-1000}
seconds=${seconds:-2.5}
[[ $conns =~ ^[1-9][0-9]*$ ]] || fail "--conns $conns is not a number"
[[ $seconds =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "--seconds $seconds is not a time"
[ ${#names[@]} -gt 0 ] || names=("${server_names[@]}")

begin_work

rows=()		# of the table
failures=()
answers=0	# verified, and their bytes
bytes=0
kernel_threads=0	# most of them under weft

# The memory of a thread is mostly the kernel's: it shows in MemAvailable.
add_row() {
	local name=$1 mode=$2 row
	row=$(awk -v name="$name" -v mode="$mode" -v n="$3" \
		-v rps="${result[rps]}" -v p50="${result[p50_us]}" \
		-v p99="${result[p99_us]}" -v cpu="${result[srv_cpu_us_per_req]}" \
		-v threads="${result[srv_threads]}" \
		-v rss="${result[srv_rss_kb]}" \
		-v mem="${result[srv_memavail_per_conn_kb]}" 'BEGIN {
		printf "%-11s %-7s %11d %10d %9.2f %9.2f %10.1f %9d %8.1f %11.1f",
			name, mode, n, rps, p50 / 1000, p99 / 1000, cpu,
			threads, rss / 1024, mem
	}')
	rows+=("$row")
}

table_head() {
	printf '%-11s %-7s %11s %10s %9s %9s %10s %9s %8s %11s\n' \
		server mode connections requests/s 'p50 ms' 'p99 ms' \
		'CPU us/req' 'kernel' 'RSS MiB' 'memory KiB'
	printf '%-11s %-7s %11s %10s %9s %9s %10s %9s %8s %11s\n' \
		'' '' '' '' '' '' '' threads '' /connection
}

failed() {
	say "FAILED: $1"
	failures+=("$1")
	keep_work=true
}

# run_one NAME MODE N: one server, one way, one load.
run_one() {
	local name=$1 mode=$2 n=$3 target=${backend_port:-0} prefix=()
	local log=$work/$name-$mode-$n
	local what pid status=0

	what="$name, $mode, $(with_commas "$n") connections"
	[ "$mode" = native ] || prefix=("$build/weft")
	detail "$what: starting the server"
	if ! start_server "$name" "$log.server" "$target" "${prefix[@]}"; then
		failed "$what: the server did not start"
		show_log "$log.server"
		return 0
	fi
	pid=$launched_pid
	launch "$log.load" "$demos/load" "${load[@]}" --port "$port" \
		--pid "$pid" --conns "$n" --seconds "$seconds"
	status "$what: opening all, then measuring ${seconds} s"
	finish "$launched_pid" 90 "$what: opening all, then measuring" ||
		status=$?
	read_result "$log.load"
	if ! kill -0 "$pid" 2>/dev/null; then
		failed "$what: the server ended under load"
	elif [ "$status" -ne 0 ]; then
		failed "$what: the load generator reports errors ($status)"
	fi
	if [ "$status" -ne 0 ]; then
		show_log "$log.load"
		show_log "$log.server"
	else
		add_row "$name" "$mode" "$n"
		answers=$((answers + result[verified]))
		bytes=$((bytes + result[verified_bytes]))
		say "$what: ${result[rps]} requests/s," \
			"${result[srv_threads]} kernel threads," \
			"$(with_commas "${result[verified]}") answers right"
	fi
	if [ "$mode" = weft ] && [ "$status" -eq 0 ]; then
		# A thread a connection would mean that it ran natively. Where tests force
		# first attempts to fail, each file that is read takes a helper: up to 61
		# of them for tinyproxy's 200 connections were seen.
		most=$((n / 4))
		[[ ${WEFT_STRESS-} == *wouldblock* ]] && most=$((n / 2))
		if [ "$n" -ge 40 ] && [ "${result[srv_threads]}" -gt "$most" ]; then
			failed "$what: ${result[srv_threads]} kernel threads"
			show_log "$log.server"
		elif [ "${result[srv_threads]}" -gt "$kernel_threads" ]; then
			kernel_threads=${result[srv_threads]}
		fi
	fi
	detail "$what: stopping the server"
	status=0
	stop "$pid" || status=$?
	# Some end by the signal, some on their own; 137 is our SIGKILL.
	case $status in
	0 | 143) ;;
	*)
		failed "$what: the server ended with status $status at SIGTERM"
		show_log "$log.server"
		;;
	esac
}

# ----------------------------------------------------------------------

if [ -z "$build_dir" ]; then
	status "installing what is missing"
	$is_terminal && echo
	"$root/scripts/setup.sh" --no-checks || fail "scripts/setup.sh failed"
	build_release
	build_dir=$root/build/release
fi
use_build "$(cd "$build_dir" && pwd)"
if [[ " ${modes[*]} " == *" weft "* ]]; then
	[ -x "$build/weft" ] || fail "there is no $build/weft"
fi

hard=$(ulimit -Hn)
if [ "$hard" != unlimited ] && [ "$many" -gt $((hard - 200)) ]; then
	many=$((hard - 200))
	say "only $many connections for echo: the limit of descriptors is $hard"
fi

backend_port=
if [[ " ${names[*]} " =~ \ (microsocks|tinyproxy|stunnel)\  ]]; then
	start_server backend "$work/backend.server" 0 ||
		fail "the backend did not start: $(cat "$work/backend.server")"
	backend_port=$port
fi

for name in "${names[@]}"; do
	for mode in "${modes[@]}"; do
		run_one "$name" "$mode" "$conns"
	done
	if [ "$name" = echo ] && [ "$many" -gt "$conns" ]; then
		for mode in "${modes[@]}"; do
			run_one "$name" "$mode" "$many"
		done
	fi
done

$is_terminal && printf '\r\033[K'
echo
table_head
[ ${#rows[@]} -eq 0 ] || printf '%s\n' "${rows[@]}"
echo
echo "$(with_commas "$answers") answers, $(with_commas "$bytes") bytes," \
	"every byte compared. CPU is the server's. Memory is what the whole" \
	"machine had less of, both ends' sockets included."
if [ "$kernel_threads" -gt 0 ]; then
	echo "Under weft no server had more than $kernel_threads kernel threads."
fi
if [ ${#failures[@]} -gt 0 ]; then
	echo
	echo "${#failures[@]} failed:"
	printf '  %s\n' "${failures[@]}"
	exit 1
fi
say "done"
