"""A UDP client: sends COUNT datagrams, each from a port of its own, and prints the answers.

Usage: ask-udp.py ADDRESS PORT [COUNT]
Exit code: 0 all answered, 7 refused (as curl has it), 28 no answer in ten seconds.
"""

import socket
import sys
import time

address, port = sys.argv[1], int(sys.argv[2])
count = int(sys.argv[3]) if len(sys.argv) > 3 else 1
for _ in range(count):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect((address, port))
        sent = time.monotonic()
        try:
            client.send(b"?\n")
            sys.stdout.write(client.recv(512).decode())
        except ConnectionRefusedError:
            took = time.monotonic() - sent
            print(f"{address} port {port}: refused after {took:.6f} s")
            sys.exit(7)
        except TimeoutError:
            print(f"{address} port {port}: no answer")
            sys.exit(28)
