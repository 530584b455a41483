"""httpd.py - the HTTP server of Python's own library, a thread a connection.

It shows an interpreter on fibers: the global lock is a mutex and a timed
condition variable, and threads are started and ended by the thousand. Use the
distribution's interpreter, which weft is tested with:

    /usr/bin/python3 httpd.py 7000          natively
    weft /usr/bin/python3 httpd.py 7000     on fibers

    httpd.py PORT                           PORT 0 lets the kernel choose one

GET /N/SEED answers with the N bytes that body.h describes. Expect the line
"listening on 127.0.0.1:PORT"; SIGTERM or SIGINT ends it with status 0 and a
line with totals.
"""
import http.server
import re
import resource
import signal
import sys

RING = 1 << 20


def make_ring():
    """The same 1 MiB as in body.h, twice in a row."""
    mask = (1 << 64) - 1
    words = []
    for i in range(1, RING // 8 + 1):
        z = i * 0x9E3779B97F4A7C15 & mask
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        words.append((z ^ (z >> 31)).to_bytes(8, "little"))
    return memoryview(b"".join(words) * 2)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # with keep-alive
    disable_nagle_algorithm = True  # head and body are two writes
    ring = make_ring()
    path_form = re.compile(r"/(\d+)/(\d+)$", re.ASCII)

    def do_GET(self):
        match = self.path_form.match(self.path)
        size, seed = map(int, match.groups()) if match else (0, 0)
        if not match or size > RING or seed >= 1 << 32:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        start = seed % RING
        self.wfile.write(self.ring[start : start + size])
        self.server.answers += 1  # a total for people; it may miss some

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 4096
    connections = 0
    answers = 0

    def process_request(self, request, client_address):
        self.connections += 1
        super().process_request(request, client_address)


def stop(signum, frame):
    sys.exit(0)  # raised in the main thread, which is in serve_forever()


def main():
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
        sys.exit("usage: httpd.py PORT")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print("listening on 127.0.0.1:%d" % server.server_port, flush=True)
    try:
        server.serve_forever()
    finally:
        print(
            "httpd.py: %d connections served, about %d answers"
            % (server.connections, server.answers)
        )


main()
