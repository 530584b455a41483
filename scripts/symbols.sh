#!/usr/bin/env bash
# What the built libraries export, import, and may do to memory.
set -euo pipefail

usage() {
	cat <<'END'
usage: scripts/symbols.sh [-h] [BUILDDIR]

Looks at libweft.so, libweft-sites.so and weft in BUILDDIR (build/release) and at
the object files they were made of:

  exports    those of libweft.so are the rows of interpose/calls.def, unversioned
  imports    libweft.so imports only what the list in this script allows, and why
  libraries  it is linked with libc.so.6 and ld.so alone
  binding    nothing is bound lazily, and relocations are read-only afterwards
  memory     nothing is writable and executable; no text relocations
  tls        no thread-local variable of ours: TLS belongs to whichever fiber runs
  objects    the runtime calls nothing of libc, the doors only __errno_location
  names      whatever reaches the linker starts with weft_
  vectors    no vector register is touched outside runtime/arch

One line per check; exit status 1 when one of them fails.
END
}

build=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage && exit 0 ;;
	-*) usage >&2 && exit 2 ;;
	*)
		[ -z "$build" ] || { usage >&2 && exit 2; }
		build=$(realpath -- "$1")
		;;
	esac
	shift
done
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${build:-$root/build/release}
cd "$root"
export LC_ALL=C

library=$build/libweft.so
plugin=$build/libweft-sites.so
unwinder=$build/libweft-unwind.so
launcher=$build/weft
for file in "$library" "$plugin" "$unwinder" "$launcher"; do
	if [ ! -f "$file" ]; then
		echo "symbols: there is no $file; build first" >&2
		exit 1
	fi
done

# What libweft.so may take from others.
imports=(
	# the loader's list, where libc's own functions are looked up in
	_r_debug
	# the errno edge of the front door, on a fiber's own TLS
	__errno_location
	# a cancelled wait on a condition variable, at the front door
	_pthread_cleanup_push _pthread_cleanup_pop
	# preload/ alone: the constructor, and activation on the only thread
	__environ environ getauxval getenv
	dl_iterate_phdr dladdr dlclose dlopen dlsym
	memcmp strcpy strlen strncat strncpy strrchr
	# liburing: set-up (its probe allocates; weft asks without it), and the
	# stack protector that Debian compiles it with
	calloc free __stack_chk_fail
	# the compiler's start-up files; all weak
	__cxa_finalize __gmon_start__
	_ITM_deregisterTMCloneTable _ITM_registerTMCloneTable
)

failures=0
verdict() { # CHECK PROBLEMS
	if [ -z "$2" ]; then
		printf 'ok    symbols: %s\n' "$1"
	else
		printf 'FAIL  symbols: %s: %s\n' "$1" "${2//$'\n'/, }"
		failures=$((failures + 1))
	fi
}

calls=$(sed -n 's/^WEFT_CALL(\([A-Za-z0-9_]*\),.*/\1/p' interpose/calls.def | sort)
[ -n "$calls" ] || { echo "symbols: no rows in interpose/calls.def" >&2 && exit 1; }

# only_in A B: the words of A that are not in B, both one per line.
only_in() {
	comm -23 <(sort -u <<<"$1") <(sort -u <<<"$2") | sed '/^$/d'
}

# differences WHAT-A A WHAT-B B, in words.
differences() {
	only_in "$2" "$4" | sed "s/$/ $1/"
	only_in "$4" "$2" | sed "s/$/ $3/"
}

# Old and new condition variables have the same names: these two carry the new one's version.
# weft_pin and weft_unpin are weft.h's.
exports=$(nm -D --defined-only --format=posix "$library" | awk '$2 != "A" && $1 !~ /^weft_(un)?pin$/ {
	sub(/^pthread_cond_(timed)?wait@@GLIBC_2[.]3[.]2$/, "&#", $1)
	sub(/@@GLIBC_2[.]3[.]2#$/, "", $1)
	print $1}')
verdict "libweft.so exports the $(wc -l <<<"$calls") rows of calls.def, unversioned" \
	"$(differences 'is no row' "$exports" 'is not exported' "$calls")"
exports=$(nm -D --defined-only --format=posix "$plugin" | awk '{print $1}')
verdict 'libweft-sites.so exports weft_sites_decode' \
	"$(differences 'is exported' "$exports" 'is missing' weft_sites_decode)"
exports=$(nm -D --defined-only --format=posix "$unwinder" | awk '{print $1}')
verdict 'libweft-unwind.so exports weft_unwind_open' \
	"$(differences 'is exported' "$exports" 'is missing' weft_unwind_open)"

taken=$(nm -D --undefined-only --format=posix "$library" |
	awk '{sub(/@.*/, "", $1); print $1}')
verdict 'imports are on the list' \
	"$(only_in "$taken" "$(printf '%s\n' "${imports[@]}")")"

needed() {
	readelf -dW "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'
}
verdict 'libweft.so needs libc.so.6 and ld.so alone' "$(
	only_in "$(needed "$library")" "$(printf '%s\n' libc.so.6 ld-linux-x86-64.so.2)"
)"
verdict 'weft needs libc.so.6 alone' "$(only_in "$(needed "$launcher")" libc.so.6)"

binding() {
	local file dynamic
	for file in "$library" "$plugin" "$unwinder"; do
		dynamic=$(readelf -dW "$file")
		grep -q 'FLAGS.*BIND_NOW' <<<"$dynamic" ||
			echo "${file##*/} is bound lazily"
		readelf -lW "$file" | grep -q GNU_RELRO ||
			echo "${file##*/} keeps relocations writable"
	done
	readelf -dW "$library" | grep -q 'FLAGS_1.*NODELETE' ||
		echo 'libweft.so can be unmapped by dlclose'
}
verdict 'bound at once, relocations read-only, never unmapped' "$(binding)"

memory() {
	local file
	for file in "$library" "$plugin" "$unwinder" "$launcher"; do
		readelf -lW "$file" | awk -v file="${file##*/}" '
			$1 == "LOAD" || $1 == "GNU_STACK" {
				flags = ""
				for (i = 7; i < NF; i++)
					flags = flags $i
				if ($1 == "GNU_STACK")
					stack = 1
				if (flags ~ /W/ && flags ~ /E/)
					print file ": " $1 " is writable and executable"
			}
			END { if (!stack) print file ": no GNU_STACK" }'
		if readelf -dW "$file" | grep -q TEXTREL; then
			echo "${file##*/}: text relocations"
		fi
	done
}
verdict 'nothing is writable and executable, no text relocations' "$(memory)"

# It is asked by carriers: what it takes is for them, or for activation.
verdict 'libweft-unwind.so takes libunwind and nothing that needs a thread' "$(
	nm -D --undefined-only --format=posix "$unwinder" |
		awk '{sub(/@.*/, "", $1); print $1}' |
		grep -vxE '_U[A-Za-z]*x86_64_[a-z_]*|mem(cpy|set)|__cxa_finalize|__gmon_start__|_ITM_.*' ||
		true
)"
verdict 'libweft.so and libweft-unwind.so have no thread-local storage' "$(
	for file in "$library" "$unwinder"; do
		readelf -lW "$file" | awk -v file="${file##*/}" '$1 == "TLS" {print file " has a TLS segment"}'
	done
)"

# ---- what it was made of

objects_of() { # TARGET
	find "$build" -path "*/$1.dir/*" -name '*.o' | sort
}
mapfile -t runtime < <(objects_of weft_runtime)
mapfile -t doors < <(objects_of weft_interpose)
if [ ${#runtime[@]} -eq 0 ] || [ ${#doors[@]} -eq 0 ]; then
	verdict 'object files' "there are none below $build"
	exit 1
fi
defined() {
	nm --defined-only --extern-only --format=posix "$@" | awk 'NF > 1 {print $1}' | sort -u
}
undefined() {
	nm --undefined-only --format=posix "$@" | awk 'NF > 1 {print $1}' | sort -u
}

# A call of an interposed name would come back to us; any other, to libc's sites.
verdict 'the runtime calls nothing of libc' "$(
	only_in "$(undefined "${runtime[@]}")" "$(defined "${runtime[@]}")" |
		grep -vxE '_GLOBAL_OFFSET_TABLE_|io_uring_[a-z0-9_]*' || true
)"
verdict 'only ring.c calls liburing' "$(
	for object in "${runtime[@]}"; do
		[[ $object == */ring.c.o ]] || undefined "$object" | grep '^io_uring_' || true
	done
)"
# The thread control block behind FS may be gone while a carrier runs (ring.c).
canaries=$(objdump -d --no-show-raw-insn "$library" | awk '
	/^[0-9a-f]+ <.*>:$/ { name = substr($2, 2, length($2) - 3) }
	/%fs:0x28/ { print name }' | sort -u)
verdict 'the runtime calls nothing that has a stack protector' "$(
	comm -12 <(undefined "${runtime[@]}" | sort -u) <(echo "$canaries")
)"
verdict 'the doors call nothing of libc but __errno_location and clean-ups' "$(
	only_in "$(undefined "${doors[@]}")" "$(defined "${runtime[@]}" "${doors[@]}")" |
		grep -vxE '_GLOBAL_OFFSET_TABLE_|__errno_location|_pthread_cleanup_(push|pop)|_r_debug' || true
)"

# The handlers of syscalls.def are sys_NAME; all of it is hidden in the library.
verdict 'names start with weft_ (handlers of system calls: sys_)' "$(
	only_in "$(defined "${runtime[@]}" "${doors[@]}")" "$calls" |
		grep -vE '^(weft_|sys_)|@@' |
		grep -vxE 'mem(set|cpy|move|cmp)' || true # the compiler calls these
)"

verdict 'no vector register outside runtime/arch' "$(
	for object in "${runtime[@]}" "${doors[@]}"; do
		[[ $object == */arch/* ]] && continue
		if objdump -d --no-show-raw-insn "$object" | grep -qE '%[xyz]mm[0-9]|%st\b'; then
			echo "${object##*.dir/} touches one"
		fi
	done
)"

[ "$failures" -eq 0 ]
