#!/usr/bin/env bash
# Large servers, unmodified, natively and under weft: the same answers to the same clients.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

all_names=(mariadb pdns apache-x apache apache-event nbdkit rrdcached varnish stunnel slapd)

usage() {
	cat <<END
usage: scripts/servers.sh [OPTION]...

Puts real servers of Debian 12 through what they are made for, first natively,
then under weft: many clients at once, reload, signals, crash, clean end. What
the clients see is written down; both times it must be the same text.

  --only NAME      only this one; may be given several times
                   (${all_names[*]})
  --full           as many connections and threads as they are made for: Apache
                   with 4,096 threads, stunnel with 5,000 connections
  --install        first install what is missing (apt-get; about five minutes)
  --installed      leave out, and say so, what is not installed; without it a
                   missing program is an error
  --weft-only      compare with nothing; show what the clients see
  --build-dir DIR  the build folder (build/release)
  -h               this text

Exit status: 0 when all are the same; 77 when nothing could be run.
END
}

names=()
modes=(native weft)
build_dir=$root/build/release
install=false
only_installed=false
threads=400 plain=300 encrypted=200	# connections: less than Apache has threads
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	--full) threads=4096 plain=4000 encrypted=5000 ;;
	--install) install=true ;;
	--installed) only_installed=true ;;
	--weft-only) modes=(weft) ;;
	--only | --build-dir)
		[ $# -ge 2 ] || fail "$1 needs a value"
		if [ "$1" = --only ]; then
			[[ " ${all_names[*]} " == *" $2 "* ]] ||
				fail "--only $2: there are ${all_names[*]}"
			names+=("$2")
		else
			build_dir=$2
		fi
		shift
		;;
	*) usage >&2 && exit 2 ;;
	esac
	shift
done
[ ${#names[@]} -gt 0 ] || names=("${all_names[@]}")
PATH=$PATH:/usr/sbin:/sbin

# What each needs: a program, and the packages that have it.
declare -A program=([mariadb]=mariadbd [pdns]=pdns_server [apache-x]=apache2
	[apache]=apache2 [apache-event]=apache2 [nbdkit]=nbdcopy
	[rrdcached]=rrdcached [varnish]=varnishd [stunnel]=stunnel4 [slapd]=slapd)
declare -A packages=([mariadb]='mariadb-server sysbench'
	[pdns]='pdns-server pdns-backend-bind' [apache-x]=apache2-bin
	[apache]=apache2-bin [apache-event]=apache2-bin
	[nbdkit]='nbdkit libnbd-bin' [rrdcached]='rrdcached rrdtool'
	[varnish]=varnish [stunnel]=stunnel4 [slapd]='slapd ldap-utils')

install_missing() {
	local name more wanted=()
	for name in "${names[@]}"; do
		command -v "${program[$name]}" >/dev/null && continue
		read -ra more <<<"${packages[$name]}"
		wanted+=("${more[@]}")
	done
	[ ${#wanted[@]} -gt 0 ] || return 0
	"$root/scripts/setup.sh" --also "${wanted[*]}"
}

begin_work
# The clients' descriptors, and the servers'.
ulimit -Sn "$(ulimit -Hn)"
use_build "$(cd "$build_dir" && pwd)"
python=/usr/bin/python3
clients=$root/tests/servers/client.py

# ----------------------------------------------------------------------
# A session with a server. What is printed by note() and by the clients is the
# transcript; ports, times and pids do not belong there.

name=	# of the server
mode=	# native or weft
folder=	# its own
log=
pid=
carriers=	# yes when some were seen
backend=	# the port of what is behind it, if anything
backend_pid=
prefix=()

note() {
	echo "$*"
}

# up CMD...: start it and wait until it listens on $port.
up() {
	launch "$log" "${prefix[@]}" "$@"
	pid=$launched_pid
	if ! await_server "$pid" "$port"; then
		note "did not start"
		return 1
	fi
}

# Fibers at all? Carriers have telling names, in the process or its children.
look_for_carriers() {
	local p
	for p in "$pid" $(pgrep -P "$pid" || true); do
		! grep -qs '^weft/' "/proc/$p"/task/*/comm || carriers=yes
	done
}

# down [SIGNAL]: end it, and tell how it ended.
down() {
	local i status=0
	look_for_carriers
	kill -"${1:-TERM}" "$pid" 2>/dev/null || note "was gone already"
	for ((i = 0; i < 400; i++)); do
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.05
	done
	if [ "$i" -eq 400 ]; then
		note "did not end by itself"
		kill -KILL -- "-$pid" 2>/dev/null || true
	fi
	{ wait "$pid"; } 2>/dev/null || status=$?
	unset "launched[$pid]"
	note "ended with $status"
}

# kept ACKNOWLEDGED FOUND: was each write that was acknowledged found after the crash?
# The one that was under way may be there, too.
kept() {
	[ "$1" -lt 1 ] || [ "$2" -lt "$1" ] || [ "$2" -gt $(($1 + 1)) ] || return 0
	note "acknowledged $1, found $2"
	return 1
}

client() {
	timeout 60 "$python" "$clients" "$@" 2>&1 || note "client: $?"
}

as_user=()	# mariadbd does not run as root without being told
[ "$(id -u)" -ne 0 ] || as_user=(--user=root)
as_root() {
	[ "$(id -u)" -ne 0 ] || echo "$*"
}

# ---- MariaDB

sql() {
	timeout 60 mariadb --no-defaults --socket="$folder/sock" -uroot -N "$@" 2>&1 ||
		note "client: $?"
}

mariadb_up() {
	up mariadbd --no-defaults "${as_user[@]}" --datadir="$folder/data" \
		--socket="$folder/sock" --port="$port" --bind-address=127.0.0.1 \
		--pid-file="$folder/pid" --log-error="$folder/error.log" \
		--innodb-buffer-pool-size=64M --skip-name-resolve \
		--max-connections=2000 --back-log=1000
	local i
	for ((i = 0; i < 100; i++)); do
		[ "$(sql -e 'select 1')" != 1 ] || return 0
		sleep 0.1
	done
	note "does not answer"
}

# The id of the connection that runs a statement like this one.
mariadb_id() {
	local i id
	for ((i = 0; i < 100; i++)); do
		id=$(sql -e "select id from information_schema.processlist
			where info like '$1%' and info not like '%processlist%'")
		[[ $id =~ ^[0-9]+$ ]] && echo "$id" && return 0
		sleep 0.05
	done
	note "no such statement"
}

mariadb_kills() {
	local id victim
	sql -e 'select sleep(61)' >"$folder/victim" &
	victim=$!
	id=$(mariadb_id 'select sleep(61')
	sql -e "kill query $id"
	wait "$victim" || true
	note "query killed: $(cat "$folder/victim")"

	sql -e 'select sleep(62)' >"$folder/victim" &
	victim=$!
	id=$(mariadb_id 'select sleep(62')
	sql -e "kill connection $id"
	wait "$victim" || true
	note "connection killed: $(sed 's/at line [0-9]*//' "$folder/victim")"

	# An idle one: its thread waits in poll.
	printf 'select connection_id();\n\\! sleep 2\nselect 3;\n' |
		sql -n >"$folder/victim" &
	victim=$!
	while ! grep -q '^[0-9]' "$folder/victim"; do sleep 0.05; done
	sql -e "kill $(head -n 1 "$folder/victim")"
	wait "$victim" || true
	note "idle connection killed: $(sed 1d "$folder/victim")"
}

mariadb_times() {
	note "idle for too long:"
	printf 'set session wait_timeout=1;\n\\! sleep 2.5\nselect 4;\n' | sql -n
	note "a lock for too long:"
	printf 'begin; update t.c set n=n+1 where id=1;\n\\! sleep 3\nrollback;\n' |
		sql -n &
	local holder=$!
	sleep 0.7
	sql -e 'set innodb_lock_wait_timeout=1; update t.c set n=n+1 where id=1'
	wait "$holder" || true
}

# Eight writers that count what was acknowledged; the server is killed meanwhile.
mariadb_crash() {
	local i k writers=() acknowledged found lost=0
	for k in 1 2 3 4 5 6 7 8; do
		(for ((i = 0; i < 20000; i++)); do
			echo "update t.c set n=n+1 where id=1$k; select 'ok';"
		done | sql -n >"$folder/acknowledged.$k") &
		writers+=($!)
	done
	for k in 1 2 3 4 5 6 7 8; do
		for ((i = 0; i < 200; i++)); do
			[ ! -s "$folder/acknowledged.$k" ] || break
			sleep 0.05
		done
	done
	down KILL
	wait "${writers[@]}" || true
	mariadb_up
	grep -q 'Starting crash recovery' "$folder/error.log" &&
		note "recovered after the crash"
	for k in 1 2 3 4 5 6 7 8; do
		acknowledged=$(grep -c '^ok' "$folder/acknowledged.$k" || true)
		found=$(sql -e "select n from t.c where id=1$k")
		kept "$acknowledged" "$found" || lost=1
	done
	note "acknowledged and lost: $lost"
	sql -e 'check table t.c, t.l, t.sbtest1'
}

mariadb_session() {
	local test bench
	mkdir -p "$folder/data"
	mariadb-install-db --no-defaults "${as_user[@]}" --datadir="$folder/data" \
		--auth-root-authentication-method=normal --skip-test-db \
		>"$folder/install.log" 2>&1 || note "mariadb-install-db: $?"
	mariadb_up
	sql -e 'create database t; create table t.c(id int primary key, n int not null);
		create table t.l(x int); insert into t.c values (1,0),(11,0),(12,0),
		(13,0),(14,0),(15,0),(16,0),(17,0),(18,0)'
	timeout 100 mariadb-slap --no-defaults --socket="$folder/sock" -uroot \
		--create-schema=t --no-drop --concurrency=100 --number-of-queries=2000 \
		--delimiter=';' --query='update c set n=n+1 where id=1;insert into l values (1)' \
		>"$folder/slap.log" 2>&1 || note "mariadb-slap: $?"
	sql -e 'select n from t.c where id=1; select count(*) from t.l'

	bench=(timeout 100 sysbench --db-driver=mysql --mysql-socket="$folder/sock"
		--mysql-user=root --mysql-db=t --tables=1 --table-size=2000
		"--mysql-ignore-errors=1213,1020,1205" --threads=128 --time=1)
	"${bench[@]}" oltp_read_write prepare >"$folder/prepare.log" 2>&1 ||
		note "sysbench prepare: $?"
	sql -e 'set global max_prepared_stmt_count=1000000'
	for test in oltp_point_select oltp_update_index oltp_read_write; do
		"${bench[@]}" "$test" run >"$folder/$test.log" 2>&1 || note "$test: $?"
		grep -E 'FATAL|reconnects: *[1-9]' "$folder/$test.log" | head -n 3 || true
	done
	sql -e 'select count(*) from t.sbtest1'
	sql -e 'check table t.c, t.l, t.sbtest1'

	mariadb_kills
	mariadb_times
	kill -HUP "$pid"
	sleep 0.3
	note "after SIGHUP: $(sql -e 'select 5')"
	mariadb_crash
	sql -e 'shutdown'
	local i
	for ((i = 0; i < 200; i++)); do
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.05
	done
	note "after SHUTDOWN:"
	down
	choose_port
	mariadb_up
	down TERM
	grep -E 'signal [0-9]+|\[ERROR\]' "$folder/error.log" | head -n 5 || true
}

# ---- PowerDNS

pdns_session() {
	printf 'zone "lab" { type master; file "%s/lab.zone"; };\n' "$folder" \
		>"$folder/named.conf"
	printf '%s\n' "\$TTL 60" '@ IN SOA a.lab. b.lab. 1 60 60 60 60' \
		'@ IN NS a.lab.' 'a IN A 127.0.0.9' >"$folder/lab.zone"
	up pdns_server --config-dir="$folder" --launch=bind \
		--bind-config="$folder/named.conf" --local-address=127.0.0.1 \
		--local-port="$port" --socket-dir="$folder" --daemon=no --guardian=no \
		--disable-syslog --max-tcp-connections=2000 \
		--max-tcp-transactions-per-conn=0 --loglevel=3
	client dns "$port" a.lab 200 20
	down
}

# ---- Apache

apache_configuration() {
	cat <<-END
		ServerRoot /usr/lib/apache2
		LoadModule mpm_$1_module modules/mod_mpm_$1.so
		LoadModule authz_core_module modules/mod_authz_core.so
		LoadModule dir_module modules/mod_dir.so
		Listen 127.0.0.1:$port
		ListenBacklog 4096
		PidFile $folder/pid
		ErrorLog $folder/error.log
		ServerName weft
		$(as_root User nobody)
		$(as_root Group nogroup)
		ServerLimit 1
		ThreadLimit 4096
		ThreadsPerChild $threads
		StartServers 1
		MaxRequestWorkers $threads
		MinSpareThreads 1
		MaxSpareThreads $threads
		KeepAlive On
		MaxKeepAliveRequests 0
		KeepAliveTimeout 60
		DocumentRoot $folder/www
		DefaultRuntimeDir $folder
	END
}

# apache_session MPM ARG...
apache_session() {
	local mpm=$1 child
	shift
	mkdir -p "$folder/www"
	chmod 755 "$work" "$folder" "$folder/www"
	head -c 100 /dev/zero | tr '\0' x >"$folder/www/small"
	seq 100000 >"$folder/www/large"
	apache_configuration "$mpm" >"$folder/conf"
	up apache2 -D FOREGROUND -f "$folder/conf" "$@"
	client http "$port" /small "$plain" 10
	client http "$port" /large 50 3
	if [ $# -eq 0 ]; then
		child=$(pgrep -P "$pid" | head -n 1)
		[ -z "$(as_root yes)" ] ||
			note "children run as $(stat -c %U "/proc/$child")"
		kill -HUP "$pid"
		sleep 1
		await_server "$pid" "$port" || note "gone after SIGHUP"
		client http "$port" /small 100 2
		note "a new configuration, three times, while all have asked:"
		client http "$port" /small 100 7 --signal USR1 "$pid"
		sleep 1
		client http "$port" /small 100 2
	fi
	down
	[ $# -gt 0 ] || [ ! -e "/proc/$child" ] || note "a child is left"
	grep -E 'exit signal|\[crit|\[alert|\[emerg|:error\]' "$folder/error.log" |
		sed 's/\[[A-Z][^]]* [0-9]*\] //; s/\[pid [^]]*\] //' | sort -u || true
}

# ---- nbdkit

nbdkit_session() {
	head -c 32M /dev/urandom >"$folder/in"
	up nbdkit -f -i 127.0.0.1 -p "$port" memory 32M
	timeout 60 nbdcopy --connections=8 "$folder/in" "nbd://127.0.0.1:$port" ||
		note "nbdcopy: $?"
	timeout 60 nbdcopy --connections=8 "nbd://127.0.0.1:$port" "$folder/out" ||
		note "nbdcopy: $?"
	cmp "$folder/in" "$folder/out" && note "the same bytes"
	down
}

# ---- rrdcached

rrdcached_session() {
	mkdir -p "$folder/db"
	rrdtool create "$folder/db/a.rrd" --start 1000000000 --step 1 \
		DS:v:GAUGE:10:U:U RRA:LAST:0.5:1:600
	up rrdcached -g -l "127.0.0.1:$port" -b "$folder/db" -p "$folder/pid" \
		-w 300 -t 2
	client lines "$port" 1 1 "UPDATE $folder/db/a.rrd 1000000001:1 1000000002:7" |
		sed 's/, .*//'
	client lines "$port" 100 5 PENDING\ "$folder/db/a.rrd"
	client lines "$port" 1 1 "FLUSH $folder/db/a.rrd" | sed "s|$folder||"
	rrdtool lastupdate "$folder/db/a.rrd"
	client lines "$port" 1 1 "UPDATE $folder/db/a.rrd 1000000003:9" | sed 's/, .*//'
	down
	# What was only remembered was written at the end.
	rrdtool lastupdate "$folder/db/a.rrd"
}

# What is behind a server, at $backend; another port for itself.
backend_up() {
	backend=$port
	launch "$folder/backend.log" "$demos/backend" "$backend"
	backend_pid=$launched_pid
	await_server "$backend_pid" "$backend" || note "no backend"
	choose_port
}

# ---- Varnish

varnish_session() {
	backend_up
	up varnishd -F -n "$folder/n" -j none -a "127.0.0.1:$port" \
		-b "127.0.0.1:$backend" -s malloc,32M -p thread_pool_min=20 \
		-p thread_pool_max=200
	client http "$port" /5000/1 100 5
	client http "$port" /70000/2 50 2
	down
	stop "$backend_pid" || true
}

# ---- stunnel

stunnel_session() {
	make_certificate
	backend_up
	stunnel_configuration "$port" "$backend" >"$folder/conf"
	up stunnel4 "$folder/conf"
	client http "$port" /5000/1 "$encrypted" 3 --tls
	client http "$port" /70000/2 20 5 --tls
	note "a new configuration, while all have asked:"
	client http "$port" /5000/3 "$encrypted" 4 --tls --signal HUP "$pid" \
		--listens-anew
	client http "$port" /5000/1 10 1 --tls
	down
	stop "$backend_pid" || true
}

# ---- OpenLDAP: LMDB's locks lie in shared memory

ldap() {
	timeout 60 "$@" -x -H "ldap://127.0.0.1:$port" -D cn=admin,dc=lab -w secret \
		-o nettimeout=10
}

slapd_configuration() {
	cat <<-END
		include /etc/ldap/schema/core.schema
		pidfile $folder/pid
		modulepath /usr/lib/ldap
		moduleload back_mdb
		threads 32
		sizelimit unlimited
		database mdb
		maxsize 67108864
		suffix "dc=lab"
		rootdn "cn=admin,dc=lab"
		rootpw secret
		directory $folder/db
		index objectClass,cn eq
	END
}

slapd_up() {
	up sh -c 'ulimit -n 1024; exec "$@"' sh \
		slapd -d 0 -h "ldap://127.0.0.1:$port" -f "$folder/conf"
}

# Eight that write one entry each and count what was acknowledged, and eight that
# search; the server is killed meanwhile, with LMDB's locks held by whoever has them.
slapd_crash() {
	local i w workers=() acknowledged found lost=0
	for w in 0 1 2 3 4 5 6 7; do
		(for ((i = 1; i < 20000; i++)); do
			printf 'dn: cn=p%d,dc=lab\nchangetype: modify\n' "$w"
			printf 'replace: sn\nsn: %d\n\n' "$i"
		done | ldap stdbuf -oL ldapmodify -v >"$folder/acknowledged.$w" 2>/dev/null) &
		workers+=($!)
		(while ldap ldapsearch -LLL -b dc=lab cn; do :; done >/dev/null 2>&1) &
		workers+=($!)
	done
	for w in 0 1 2 3 4 5 6 7; do
		for ((i = 0; i < 200; i++)); do
			! grep -qs complete "$folder/acknowledged.$w" || break
			sleep 0.05
		done
	done
	down KILL
	wait "${workers[@]}" || true
	slapd_up
	for w in 0 1 2 3 4 5 6 7; do
		acknowledged=$(grep -c complete "$folder/acknowledged.$w" || true)
		found=$(ldap ldapsearch -LLL -b "cn=p$w,dc=lab" sn | sed -n 's/^sn: //p')
		kept "$acknowledged" "$found" || lost=1
	done
	note "acknowledged and lost: $lost"
}

slapd_session() {
	local w workers=()
	mkdir -p "$folder/db"
	slapd_configuration >"$folder/conf"
	# The shell first, weft only for what it becomes.
	slapd_up
	{
		printf 'dn: dc=lab\nobjectClass: dcObject\nobjectClass: organization\n'
		printf 'o: lab\ndc: lab\n\n'
		for ((i = 0; i < 200; i++)); do
			printf 'dn: cn=p%d,dc=lab\nobjectClass: person\ncn: p%d\nsn: s\n\n' \
				"$i" "$i"
		done
	} | ldap ldapadd >"$folder/add.log" || note "ldapadd: $?"
	for w in 0 1 2 3 4 5 6 7; do
		(for ((i = w; i < 200; i += 8)); do
			printf 'dn: cn=p%d,dc=lab\nchangetype: modify\n' "$i"
			printf 'replace: sn\nsn: w%d\n\n' "$w"
		done | ldap ldapmodify >"$folder/modify.$w" || echo "ldapmodify: $?") &
		workers+=($!)
		(for i in 1 2 3; do
			ldap ldapsearch -LLL -b dc=lab cn | grep -c ^cn:
		done | sort | uniq -c) >"$folder/search.$w" &
		workers+=($!)
	done
	wait "${workers[@]}" || true
	cat "$folder"/search.?
	ldap ldapsearch -LLL -b dc=lab | grep . | LC_ALL=C sort | sha256sum
	note "killed:"
	down KILL
	slapd_up
	ldap ldapsearch -LLL -b dc=lab | grep . | LC_ALL=C sort | sha256sum
	note "killed while they write:"
	slapd_crash
	printf 'dn: cn=p1,dc=lab\nchangetype: delete\n' | ldap ldapmodify >/dev/null ||
		note "ldapmodify: $?"
	down
	slapcat -f "$folder/conf" 2>/dev/null | grep -c ^dn:
}

# ----------------------------------------------------------------------

run_session() {
	name=$1 mode=$2
	folder=$work/$name-$mode
	log=$folder/log
	mkdir -p "$folder"
	prefix=() carriers=no
	if [ "$mode" = weft ]; then
		prefix=(env "LD_PRELOAD=$build/libweft.so")
	fi
	choose_port
	case $name in
	apache-x) apache_session worker -X ;;
	apache) apache_session worker ;;
	apache-event) apache_session event ;;
	*) "${name}_session" ;;
	esac
}

[ "${install}" = false ] || install_missing
failed=()
ran=0
for one in "${names[@]}"; do
	if ! command -v "${program[$one]}" >/dev/null; then
		$only_installed || fail "${program[$one]} is missing; try --install"
		say "$one: LEFT OUT, ${program[$one]} is not installed"
		continue
	fi
	ran=$((ran + 1))
	for m in "${modes[@]}"; do
		for run in 1 2 3 4; do
			status "$one, $m"
			# On stderr the shell tells whom it saw killed.
			run_session "$one" "$m" >"$work/$one-$m.txt" 2>"$work/$one-$m.err"
			# slapd frees what its threads still use, now and then: a native run
			# that ended by SIGSEGV says nothing of weft.
			if [ "$m" = weft ] || [ "$run" -eq 4 ] ||
				! grep -q 'ended with 139' "$work/$one-$m.txt"; then
				break
			fi
			say "$one: ended by SIGSEGV natively; once more"
			rm -rf "${work:?}/$one-$m"
		done
	done
	if [ ${#modes[@]} -eq 1 ]; then
		cat "$work/$one-weft.txt"
		continue
	elif ! diff -u "$work/$one-native.txt" "$work/$one-weft.txt"; then
		failed+=("$one")
		say "$one: NOT THE SAME"
		show_log "$work/$one-weft/log"
		continue
	fi
	if [ "$carriers" = no ]; then
		failed+=("$one")
		say "$one: had no fibers"
		show_log "$work/$one-weft/log"
		continue
	fi
	say "$one: the same ($(wc -l <"$work/$one-weft.txt") lines)"
done
if [ ${#failed[@]} -gt 0 ]; then
	keep_work=true
	fail "not the same: ${failed[*]}"
fi
[ "$ran" -gt 0 ] || exit 77
