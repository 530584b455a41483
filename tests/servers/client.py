#!/usr/bin/env python3
"""Clients for scripts/servers.sh that no package has in the form needed.

  client.py http PORT PATH CONNECTIONS REQUESTS [--tls]
  client.py dns PORT NAME CONNECTIONS REQUESTS
  client.py lines PORT CONNECTIONS REQUESTS LINE

All connections are open at once; each sends its requests one after the other,
all of them by turns. Prints how many answers there were of each kind, the same
text in every run that goes well. Standard library only.
"""
import collections
import hashlib
import socket
import ssl
import struct
import sys

answers = collections.Counter()


def connect(port):
    s = socket.create_connection(("127.0.0.1", port), 20)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


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


def by_turns(connections, requests, ask, answer):
    """Everybody asks before anybody's answer is read."""
    for _ in range(requests):
        for c in connections:
            ask(c)
        for c in connections:
            answers[answer(c)] += 1


def http(port, path, n, requests, tls):
    request = f"GET {path} HTTP/1.1\r\nHost: weft\r\n\r\n".encode()
    sockets = [connect(port) for _ in range(n)]
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        sockets = [context.wrap_socket(s) for s in sockets]

    def answer(c):
        head = [c.line()]
        while head[-1]:
            head.append(c.line())
        length = next(
            int(line.split(":")[1])
            for line in head
            if line.lower().startswith("content-length:")
        )
        body = c.exactly(length)
        return f"{head[0]}, {length} bytes {hashlib.sha256(body).hexdigest()[:16]}"

    connections = [Connection(s) for s in sockets]
    by_turns(connections, requests, lambda c: c.send(request), answer)


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
        http(int(port), rest[0], int(rest[1]), int(rest[2]), "--tls" in rest)
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
