# Filters, archives, compression; what a build or a CGI script runs.
set -e
seq 1 20000 | awk '{ s += $1 } END { print s }'
tar cf - -C /usr/share/common-licenses . | gzip -n | gunzip | tar tf - | sort
find /usr/share/common-licenses -type l | sort
date -u -d @0
env | grep -c LC_ALL
seq 1 1000 | sed -n 's/5/five/p' | tail -3
ls -la /usr/share/common-licenses | head -50
