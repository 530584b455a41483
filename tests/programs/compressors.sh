# Compressors with threads: the same bytes, and those of the file again.
set -e
seq 1 600000 >data
sha256sum <data
for tool in "xz -T2 -1 --block-size=512KiB" "pigz -n -p2 -b 128" "zstd -q -T2 -B1MiB"; do
	echo "$tool"
	$tool -c data >packed
	sha256sum <packed
	${tool%% *} -d -c <packed | cmp - data
	# Through pipes it is told no size.
	cat data | $tool -c | sha256sum
	cat data | $tool -c | ${tool%% *} -d -c | cmp - data
done
