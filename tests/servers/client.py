#!/usr/bin/env python3
"""Clients for scripts/servers.sh that no package has in the form needed.

  client.py http PORT PATH CONNECTIONS REQUESTS [--tls] [--signal NAME PID [--listens-anew]]
  client.py dns PORT NAME CONNECTIONS REQUESTS
  client.py lines PORT CONNECTIONS REQUESTS LINE

All connections are open at once; each sends its requests one after the other,
all of them by turns. Prints how many answers there were of each kind, the same
text in every run that goes well. Standard library only.

--signal: in every second round, when all have asked and none has its answer, the
server is sent this signal. It may close connections before or after that round's
answers; who finds its own closed opens another one and asks again, as browsers do.
--listens-anew: it closes its listener then and opens another one, which is awaited.
"""
import collections
import hashlib
import os
import signal
import socket
import ssl
import struct
import sys
import time

answers = collections.Counter()


encrypted = ssl.create_default_context()
encrypted.check_hostname = False
encrypted.verify_mode = ssl.CERT_NONE


def connect(port, tls=False):
    s = socket.create_connection(("127.0.0.1", port), 20)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return encrypted.wrap_socket(s) if tls else s


def listener(port):
    """Which socket listens there."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    return {row[9] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")}


def await_another(port, before):
    """What is in the queue of a listener that is closed is reset."""
    end = time.monotonic() + 30
    while not listener(port) or listener(port) & before:
        if time.monotonic() > end:
            raise OSError("the server does not listen anew")
        time.sleep(0.01)


class Connection:
    """Sends at once, receives through a buffer."""

    def __init__(self, s):
        self.s = s
        self.file = s.makefile("rb")

    def send(self, data):
        self.s.sendall(data)

    def exactly(self, n):
        data = self.file.read(n)
        if len(data) < n:
            raise OSError("the server closed the connection")
        return data

    def line(self):
        text = self.file.readline()
        if not text.endswith(b"\n"):
            raise OSError("the server closed the connection")
        return text.decode().rstrip("\r\n")

    def rest(self):
        return self


def by_turns(connections, requests, ask, answer, between=lambda turn: None):
    """Everybody asks before anybody's answer is read."""
    for turn in range(requests):
        for c in connections:
            ask(c)
        between(turn)
        for c in connections:
            answers[answer(c)] += 1


class Reopening:
    """A connection that is opened again when the server has closed it."""

    def __init__(self, port, tls):
        self.where = port, tls
        self.request = b""
        self.now = Connection(connect(*self.where))

    def again(self):
        self.now = Connection(connect(*self.where))
        self.now.send(self.request)

    def send(self, data):
        self.request = data
        try:
            self.now.send(data)
        except OSError:
            self.again()

    def line(self):
        for _ in range(20):
            try:
                return self.now.line()
            except OSError:
                self.again()
        raise OSError("the server closes every connection")

    def rest(self):
        """What comes after a first line has come."""
        return self.now


def http(port, path, n, requests, *options):
    request = f"GET {path} HTTP/1.1\r\nHost: weft\r\n\r\n".encode()
    tls, between = "--tls" in options, lambda turn: None
    if "--signal" in options:
        name, pid = options[options.index("--signal") + 1 :][:2]
        number = signal.Signals["SIG" + name]

        def between(turn):
            if turn % 2 == 0:
                return
            before = listener(port) if "--listens-anew" in options else None
            os.kill(int(pid), number)
            if before:
                await_another(port, before)

        connections = [Reopening(port, tls) for _ in range(n)]
    else:
        connections = [Connection(connect(port, tls)) for _ in range(n)]

    def answer(first):
        head = [first.line()]
        c = first.rest()
        while head[-1]:
            head.append(c.line())
        length = next(
            int(line.split(":")[1])
            for line in head
            if line.lower().startswith("content-length:")
        )
        body = c.exactly(length)
        return f"{head[0]}, {length} bytes {hashlib.sha256(body).hexdigest()[:16]}"

    by_turns(connections, requests, lambda c: c.send(request), answer, between)


def dns(port, name, n, requests):
    question = b"".join(
        bytes([len(label)]) + label.encode() for label in name.split(".")
    ) + struct.pack("!BHH", 0, 1, 1)
    query = struct.pack("!HHHHHH", 7, 0, 1, 0, 0, 0) + question

    def answer(c):
        data = c.exactly(struct.unpack("!H", c.exactly(2))[0])
        return f"{len(data)} bytes, address {'.'.join(map(str, data[-4:]))}"

    by_turns(
        [Connection(connect(port)) for _ in range(n)],
        requests,
        lambda c: c.send(struct.pack("!H", len(query)) + query),
        answer,
    )


def lines(port, n, requests, line):
    def answer(c):
        text = c.line()
        for _ in range(max(int(text.split()[0]), 0)):
            c.line()
        return text

    by_turns(
        [Connection(connect(port)) for _ in range(n)],
        requests,
        lambda c: c.send(line.encode() + b"\n"),
        answer,
    )


def main(kind, port, *rest):
    if kind == "http":
        http(int(port), rest[0], int(rest[1]), int(rest[2]), *rest[3:])
    elif kind == "dns":
        dns(int(port), rest[0], int(rest[1]), int(rest[2]))
    elif kind == "lines":
        lines(int(port), int(rest[0]), int(rest[1]), rest[2])
    else:
        sys.exit(__doc__)
    for text, count in sorted(answers.items()):
        print(f"{count} times: {text}")


if len(sys.argv) < 4:
    sys.exit(__doc__)
main(*sys.argv[1:])
