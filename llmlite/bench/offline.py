"""Block the connections of Python code to other machines, for systems without network namespaces.

Connections that a C++ library makes by itself aren't seen here, because they raise no audit event.
"""

from __future__ import annotations

import sys
from typing import Any

VARIABLE = "LLMLITE_BLOCK_SOCKETS"  # set to 1 in a worker's environment
EVENTS = frozenset(
    ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname")
)
OWN = ("127.", "localhost", "::1")


def block_sockets() -> None:
    """Refuse every attempt of this process to reach another machine; it can't be undone."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in EVENTS:
        return
    target = arguments[0] if event.startswith("socket.get") else arguments[1]
    host = target[0] if isinstance(target, tuple) else target
    is_path = not event.startswith("socket.get") and not isinstance(target, tuple)  # AF_UNIX: this machine
    if host is not None and not is_path and not str(host).startswith(OWN):
        raise PermissionError(f"{event}: {host!r} is another machine, and this process may reach none")
