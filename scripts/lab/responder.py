"""A pod's server: answers HTTP and UDP on one port with its name and the client's address.

Usage: responder.py NAME PORT
"""

import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def answer(client):
    """The one line that every client gets."""
    return f"{NAME} {client[0]}\n".encode()


class Http(BaseHTTPRequestHandler):
    """Any GET is answered."""

    def do_GET(self):
        body = answer(self.client_address)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """The transcript is the client's."""


class Udp(socketserver.BaseRequestHandler):
    """Any datagram is answered by one."""

    def handle(self):
        _, socket = self.request
        socket.sendto(answer(self.client_address), self.client_address)


class Server(ThreadingHTTPServer):
    """Room for a burst of clients."""

    request_queue_size = 256


NAME, PORT = sys.argv[1], int(sys.argv[2])
threading.Thread(
    target=socketserver.UDPServer(("", PORT), Udp).serve_forever, daemon=True
).start()
Server(("", PORT), Http).serve_forever()
