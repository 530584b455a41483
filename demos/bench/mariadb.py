#!/usr/bin/env python3
"""The parts of demos/mariadb.sh that a shell does badly.

  mariadb.py hold PORT N PID   opens N connections, logs in on each, tells what
                               that took in time and memory, and closes them
  mariadb.py table FILE        prints the table; FILE has lines of key=value

Standard library only.
"""
import collections
import os
import re
import socket
import statistics
import sys
import time

LOGIN = (
    b"\x01\x82\x08\x00\x00\x00\x00\x01\x21" + b"\0" * 23 + b"root\0\0mysql_native_password\0"
)


def memory(pid):
    def kib(path, key):
        with open(path) as f:
            return int(re.search(key + r":\s+(\d+)", f.read()).group(1))

    return kib("/proc/meminfo", "MemAvailable"), kib(f"/proc/{pid}/status", "VmRSS")


def packet(s):
    def exactly(n):
        data = b""
        while len(data) < n:
            more = s.recv(n - len(data))
            if not more:
                sys.exit("the server closed a connection")
            data += more
        return data

    return exactly(int.from_bytes(exactly(4)[:3], "little"))


def hold(port, n, pid):
    available, rss = memory(pid)
    connections = []
    begun = time.monotonic()
    for _ in range(n):
        s = socket.create_connection(("127.0.0.1", port), 30)
        packet(s)
        s.sendall(len(LOGIN).to_bytes(3, "little") + b"\1" + LOGIN)
        if packet(s)[0] != 0:
            sys.exit("a login was refused")
        connections.append(s)
    took = time.monotonic() - begun
    time.sleep(0.5)
    available2, rss2 = memory(pid)
    threads = len(os.listdir(f"/proc/{pid}/task"))
    for s in connections:
        s.sendall(b"\x01\0\0\0\x0e")  # COM_PING
    for s in connections:
        if packet(s)[0] != 0:
            sys.exit("a ping was not answered")
    print(
        f"open_s={took:.3f} rss_kib={(rss2 - rss) / n:.1f} "
        f"available_kib={(available - available2) / n:.1f} threads={threads}"
    )


def percentiles(log):
    """sysbench prints one percentile; its histogram has them all."""
    text = open(log).read()
    bars = [
        (float(ms), int(count))
        for ms, count in re.findall(r"^\s*([\d.]+) \|\**\s+(\d+)\s*$", text, re.M)
    ]
    total, seen, found = sum(c for _, c in bars), 0, {}
    for ms, count in bars:
        seen += count
        for p in (95, 99):
            if p not in found and seen >= total * p / 100:
                found[p] = ms
    tps = re.search(r"transactions:\s+(\d+)\s+\(([\d.]+)", text)
    if not tps or not bars or "FATAL" in text:
        sys.exit(f"no result in {log}: {text[-300:]}")
    return float(tps.group(2)), int(tps.group(1)), found[95], found[99]


def table(path):
    load = collections.defaultdict(list)
    idle = collections.defaultdict(list)
    for line in open(path):
        row = dict(word.split("=", 1) for word in line.split())
        key = (row.get("test", ""), int(row["clients"]), row["mode"])
        if "log" in row:
            tps, transactions, p95, p99 = percentiles(row["log"])
            load[key].append(
                (tps, p95, p99, float(row["cpu_us"]) / max(transactions, 1), float(row["threads"]))
            )
        else:
            idle[key].append(
                tuple(float(row[k]) for k in ("open_s", "available_kib", "rss_kib", "threads"))
            )

    def medians(rows):
        return [statistics.median(column) for column in zip(*rows)]

    print(
        f"{'test':<18} {'clients':>7} {'server':<15} {'tps':>7} {'(of all runs)':>15} {'p95 ms':>7} "
        f"{'p99 ms':>7} {'(of all runs)':>17} {'CPU us/tx':>9} {'threads':>7}"
    )
    for (test, clients, mode), rows in load.items():
        tps, p95, p99, cpu, threads = medians(rows)
        all_tps, _, all_p99, _, _ = zip(*rows)
        tps_range = f"({min(all_tps):.0f}..{max(all_tps):.0f})"
        p99_range = f"({min(all_p99):.2f}..{max(all_p99):.2f})"
        print(
            f"{test:<18} {clients:>7} {mode:<15} {tps:>7.0f} {tps_range:>15} {p95:>7.2f} "
            f"{p99:>7.2f} {p99_range:>17} {cpu:>9.1f} {threads:>7.0f}"
        )
    print()
    print(
        f"{'idle connections':<18} {'number':>7} {'server':<15} {'open s':>8} "
        f"{'KiB each':>8} {'RSS each':>8} {'':>9} {'threads':>7}"
    )
    for (_, clients, mode), rows in idle.items():
        opened, available, rss, threads = medians(rows)
        print(
            f"{'':<18} {clients:>7} {mode:<15} {opened:>8.2f} {available:>8.1f} "
            f"{rss:>8.1f} {'':>9} {threads:>7.0f}"
        )


if sys.argv[1:2] == ["hold"] and len(sys.argv) == 5:
    hold(*map(int, sys.argv[2:]))
elif sys.argv[1:2] == ["table"] and len(sys.argv) == 3:
    table(sys.argv[2])
else:
    sys.exit(__doc__)
