# Shell functions shared by demo.sh and bench.sh; sourced, not run.
#
# They answer for processes: whatever launch() starts is in a session of its
# own and dies with the script, however the script ends. A session of its own
# is also what makes the figures fair: the kernel's autogroups share a core
# between sessions, so a server with a thousand runnable threads would
# otherwise starve the load generator beside it.
#
# The caller has run `set -euo pipefail`.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

begun=$SECONDS		# of the whole script
work=			# scratch folder, see begin_work
keep_work=false		# set when something failed: the logs stay
declare -A launched=()	# the pids of launch() that were not waited for

is_terminal=false
[ -t 1 ] && is_terminal=true

# ----------------------------------------------------------------------
# Telling

elapsed() {
	printf '[%3d s]' $((SECONDS - begun))
}

# What is being done now. On a terminal the line is replaced by the next one.
status() {
	if $is_terminal; then
		printf '\r\033[K%s %s' "$(elapsed)" "$*"
	else
		printf '%s %s\n' "$(elapsed)" "$*"
	fi
}

# The same, worth no line where it cannot be replaced.
detail() {
	if $is_terminal; then
		status "$@"
	fi
}

# A line that stays.
say() {
	if $is_terminal; then
		printf '\r\033[K'
	fi
	printf '%s %s\n' "$(elapsed)" "$*"
}

fail() {
	if $is_terminal; then
		printf '\r\033[K'
	fi
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# show_log FILE: its last lines, for somebody who wants to know why.
show_log() {
	[ -s "$1" ] || return 0
	sed 's/^/    | /' <(tail -n 15 "$1") | cut -c1-200
}

# ----------------------------------------------------------------------
# Processes

begin_work() {
	work=$(mktemp -d "${TMPDIR:-/tmp}/weft-${0##*/}.XXXXXX")
	trap end_work EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
}

end_work() {
	local result=$? pid
	trap '' HUP INT TERM
	for pid in "${!launched[@]}"; do
		kill -KILL -- "-$pid" 2>/dev/null ||
			kill -KILL "$pid" 2>/dev/null || true
	done
	wait 2>/dev/null || true
	if [ -n "$work" ]; then
		if $keep_work; then
			echo "the logs are in $work"
		else
			rm -rf -- "$work"
		fi
	fi
	exit "$result"
}

# launch LOG CMD...: start CMD in the background, its pid in $launched_pid.
# It has all the descriptors this user may have (at most 65,536: some programs
# make tables of that size), nothing to read, and no life without this shell:
# the kernel kills it when the shell dies, even by SIGKILL. Not in a subshell,
# for that would be the parent.
#   pin=CPUS       run it on these CPUs
#   favoured=true  let its session weigh more than its neighbours, if allowed
launched_pid=
launch() {
	local log=$1
	shift
	[ -z "${pin:-}" ] || set -- taskset -c "$pin" "$@"
	# shellcheck disable=SC2016 # it is the inner shell that expands it
	setsid setpriv --pdeathsig KILL -- sh -c '
		limit=$(ulimit -Hn)
		[ "$limit" != unlimited ] && [ "$limit" -le 65536 ] ||
			limit=65536
		ulimit -Sn "$limit"
		if [ "$1" = true ]; then
			echo -20 2>/dev/null >/proc/self/autogroup || true
		fi
		shift
		exec "$@"' sh "${favoured:-false}" "$@" \
		</dev/null >"$log" 2>&1 &
	launched_pid=$!
	launched[$launched_pid]=1
}

# finish PID SECONDS LABEL: wait for a launched process and return its status;
# 124 when it had to be killed after SECONDS.
finish() {
	local pid=$1 limit=$2 label=$3 since=$SECONDS told=$SECONDS result=0
	while kill -0 "$pid" 2>/dev/null; do
		if [ $((SECONDS - since)) -ge "$limit" ]; then
			kill -KILL -- "-$pid" 2>/dev/null || true
			wait "$pid" 2>/dev/null || true
			unset "launched[$pid]"
			return 124
		fi
		# Without a terminal, a sign of life now and then will do.
		if $is_terminal || [ $((SECONDS - told)) -ge 15 ]; then
			status "$label ($((SECONDS - since)) s)"
			told=$SECONDS
		fi
		sleep 0.1
	done
	wait "$pid" 2>/dev/null || result=$?
	unset "launched[$pid]"
	return "$result"
}

# stop PID: end a server: SIGTERM, and SIGKILL when that is not heard in 5 s.
# Returns its exit status, 137 after SIGKILL.
stop() {
	local pid=$1 result=0 i
	kill -TERM "$pid" 2>/dev/null || true
	for ((i = 0; i < 100; i++)); do
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.05
	done
	kill -KILL -- "-$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || result=$?
	unset "launched[$pid]"
	return "$result"
}

listens() {
	[ -n "$(ss -Hltn "sport = :$1")" ]
}

# A free port, in $port. Below the range that the kernel hands out itself.
port=
choose_port() {
	local i
	for ((i = 0; i < 100; i++)); do
		port=$((16000 + RANDOM % 14000))
		listens "$port" || return 0
	done
	fail "found no free port"
}

# await_server PID PORT: until it listens. 1 when it ends or 10 s pass first.
await_server() {
	local i
	for ((i = 0; i < 200; i++)); do
		kill -0 "$1" 2>/dev/null || return 1
		listens "$2" && return 0
		sleep 0.05
	done
	return 1
}

# ----------------------------------------------------------------------
# Other people's source

# fetch_source PACKAGE FOLDER: unpack the Debian source package there, once. By package
# lists of its own: whether the machine's sources.list names source packages does not
# matter, nor is it changed.
fetch_source() {
	local package=$1 folder=$2 lists=$2.apt options
	[ ! -e "$folder/.complete" ] || return 0
	rm -rf "$folder" "$lists"
	mkdir -p "$lists/parts" "$lists/lists/partial"
	if [ -e /etc/apt/sources.list.d/debian.sources ]; then
		sed 's/^Types: deb$/Types: deb-src/' \
			/etc/apt/sources.list.d/debian.sources >"$lists/parts/debian.sources"
	else
		sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >"$lists/parts/debian.list"
	fi
	options=(-q -o Dir::Etc::sourcelist=/dev/null
		-o "Dir::Etc::sourceparts=$lists/parts"
		-o "Dir::State::lists=$lists/lists" -o Acquire::Retries=2)
	[ "$(id -u)" -ne 0 ] || options+=(-o APT::Sandbox::User=root)
	status "fetching $package"
	# shellcheck disable=SC2016 # it is the inner shell that expands it
	launch "$work/fetch.log" sh -c 'cd "$1" && package=$2 && shift 2 &&
		apt-get "$@" update && apt-get "$@" source --download-only "$package"' \
		sh "$lists" "$package" "${options[@]}"
	finish "$launched_pid" 300 "fetching $package" || {
		show_log "$work/fetch.log"
		fail "apt-get source $package failed"
	}
	dpkg-source --no-check -x "$lists/$package"_*.dsc "$folder" \
		>"$work/fetch.log" 2>&1 || fail "dpkg-source failed: $(cat "$work/fetch.log")"
	rm -rf "$lists"
	touch "$folder/.complete"
}

# ----------------------------------------------------------------------
# The programs

build=		# build folder
demos=		# the demo programs in it
use_build() {
	build=$1
	demos=$build/demos
	# demos/ also builds on its own.
	[ -x "$demos/load" ] || demos=$build
	[ -x "$demos/load" ] || fail "no demo programs in $build"
}

# build_release: configure and build, with progress.
build_release() {
	local log=$work/build.log
	status "building"
	# shellcheck disable=SC2016 # it is the inner shell that expands it
	# From there, because presets are looked for in the current folder.
	launch "$log" sh -c 'cd "$1" && cmake --preset release &&
		exec cmake --build --preset release -j "$(nproc)"' sh "$root"
	if ! finish "$launched_pid" 280 "building"; then
		show_log "$log"
		keep_work=true
		fail "the build failed"
	fi
	say "built $root/build/release"
}

# server_command NAME PORT TARGET: how to run a server in the foreground, in
# $server, and how to load it, in $load. Files it needs go to $work. TARGET is
# the port of demos/backend behind the proxies.
server=()
load=()
server_names=(echo microsocks tinyproxy stunnel mhd python)
# shellcheck disable=SC2034 # those who source this use them
server_command() {
	local name=$1 port=$2 target=$3 conf=$work/$1.conf
	case $name in
	echo)
		server=("$demos/echo" "$port")
		load=(echo)
		;;
	backend)
		server=("$demos/backend" "$port")
		load=(http)
		;;
	microsocks)
		server=(microsocks -i 127.0.0.1 -p "$port")
		load=(socks5 --target "$target")
		;;
	tinyproxy)
		# One request a connection: it has no keep-alive.
		cat >"$conf" <<-END
			$(as_root User root)
			$(as_root Group root)
			Port $port
			Listen 127.0.0.1
			Timeout 600
			LogFile "$work/tinyproxy.log"
			LogLevel Warning
			MaxClients 30000
			Allow 127.0.0.0/8
		END
		server=(tinyproxy -d -c "$conf")
		load=(proxy --target "$target" --per-request)
		;;
	stunnel)
		make_certificate
		stunnel_configuration "$port" "$target" >"$conf"
		server=(stunnel4 "$conf")
		load=(https --ca "$work/server.pem")
		;;
	mhd)
		server=("$demos/mhd" "$port" poll)
		load=(http)
		;;
	python)
		server=(/usr/bin/python3 "$root/demos/httpd.py" "$port")
		load=(http)
		;;
	*)
		fail "unknown server '$name' (there are: ${server_names[*]})"
		;;
	esac
}

as_root() {
	[ "$(id -u)" -ne 0 ] || echo "$*"
}

# On the curve P-256: a handshake with RSA would cost ten times as much, and
# the run would show OpenSSL's arithmetic.
make_certificate() {
	[ ! -s "$work/server.pem" ] || return 0
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
		-days 2 -subj /CN=127.0.0.1 -keyout "$work/server.key" \
		-out "$work/server.pem" 2>"$work/openssl.log" ||
		fail "openssl made no certificate: $(cat "$work/openssl.log")"
}

# stunnel_configuration PORT TARGET: from TLS on the one to the other.
stunnel_configuration() {
	cat <<-END
		foreground = yes
		pid =
		debug = 4
		[demo]
		accept = 127.0.0.1:$1
		connect = 127.0.0.1:$2
		cert = $work/server.pem
		key = $work/server.key
	END
}

# start_server NAME LOG TARGET PREFIX...: start it, on a port that is free. Its
# pid is in $launched_pid, its port in $port. 1 when it does not come up.
start_server() {
	local name=$1 log=$2 target=$3 attempt
	shift 3
	for ((attempt = 0; attempt < 3; attempt++)); do
		choose_port
		server_command "$name" "$port" "$target"
		launch "$log" "$@" "${server[@]}"
		if await_server "$launched_pid" "$port"; then
			return 0
		fi
		stop "$launched_pid" || true
		# Somebody else may have taken the port meanwhile.
		grep -qi 'address already in use' "$log" || return 1
	done
	return 1
}

# read_result FILE: the load generator's line of key=value into $result.
declare -A result=()
read_result() {
	local word
	result=()
	for word in $(tail -n 1 "$1"); do
		[[ $word == *=* ]] && result[${word%%=*}]=${word#*=}
	done
	return 0
}

# with_commas 1234567 -> 1,234,567
with_commas() {
	local n=$1 out=
	while [ ${#n} -gt 3 ]; do
		out=,${n: -3}$out
		n=${n::-3}
	done
	printf '%s' "$n$out"
}
