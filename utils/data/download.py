"""Downloads that give up, where the line is dead and nothing says so."""

import socket
from contextlib import contextmanager

TIMEOUT = 10.0  # seconds without an answer


@contextmanager
def giving_up(seconds: float = TIMEOUT):
    """Within it, Keras's downloads, which set no limit of their own, fail after so many seconds of silence."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
