"""Connections that the process before the fork had opened: two workers must not both use one.

A client keeps its socket's number and finds the connection ended, as if the peer had closed it
while it was idle, and opens another. The siblings' connection is not disturbed.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

STANDARD_STREAMS = 3
"""Descriptors below are the terminal, or the journal of whoever started the command."""


def forget_inherited() -> None:
    """Replace each connected stream socket of this process by one that has ended.

    Pairs without a name, such as pipes between processes, listening sockets and datagrams stay.
    """
    ended, other = socket.socketpair()
    other.close()
    with ended:
        kept = {os.fstat(number).st_ino for number in range(STANDARD_STREAMS) if _open(number)}
        for path in list(Path("/proc/self/fd").iterdir()):
            number = int(path.name)
            with suppress(OSError):  # the directory's own is closed by now
                if os.fstat(number).st_ino not in kept and _connected(number):
                    os.dup2(ended.fileno(), number, inheritable=os.get_inheritable(number))


def _open(number: int) -> bool:
    with suppress(OSError):
        os.fstat(number)
        return True
    return False


def _connected(number: int) -> bool:
    if not stat.S_ISSOCK(os.fstat(number).st_mode):
        return False
    with socket.socket(fileno=os.dup(number)) as found, suppress(OSError):
        return bool(found.type == socket.SOCK_STREAM and found.getpeername())
    return False
