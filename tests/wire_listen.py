"""Writes what one connection to ADDRESS and PORT brings to stdout."""

import socket
import sys


def main(address: str, port: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, int(port)), family=family) as server:
        server.settimeout(60)
        connection = server.accept()[0]
    with connection:
        connection.settimeout(60)
        while data := connection.recv(1 << 20):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
