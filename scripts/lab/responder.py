"""A pod's server: answers HTTP and UDP on one port with its name and the client's address.

Usage: responder.py NAME PORT

Sockets and threads alone: no name of this machine is looked up, and Debian's
python3-minimal has all of it.
"""

import socket
import sys
import threading


def answer(client):
    """The one line that every client gets."""
    return f"{NAME} {client[0]}\n".encode()


def http(connection, client):
    """One request, whatever it asks for, and one answer."""
    with connection:
        connection.settimeout(60)
        request = b""
        while b"\r\n\r\n" not in request:
            more = connection.recv(4096)
            if not more:
                return
            request += more
        body = answer(client)
        connection.sendall(
            b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )


def serve_http(listener):
    """A thread for each client."""
    while True:
        threading.Thread(target=http, args=listener.accept(), daemon=True).start()


def serve_udp(endpoint):
    """Any datagram is answered by one."""
    while True:
        _, client = endpoint.recvfrom(512)
        endpoint.sendto(answer(client), client)


NAME, PORT = sys.argv[1], int(sys.argv[2])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", PORT))
threading.Thread(target=serve_udp, args=(udp,), daemon=True).start()
tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
tcp.bind(("", PORT))
# Room for a burst of clients.
tcp.listen(256)
serve_http(tcp)
