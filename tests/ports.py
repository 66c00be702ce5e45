"""Ports of the loopback for the servers that tests start."""

import socket


def free_port() -> int:
    """Return a port on which nobody listens; whoever is quicker may take it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
