"""Block connections from Python code to other machines, on systems without network namespaces.

Connections that a C++ library makes by itself aren't blocked, because they raise no audit event.
"""

from __future__ import annotations

import re
import sys
from typing import Any

VARIABLE = "LLMLITE_BLOCK_SOCKETS"  # set to 1 in a worker's environment
SENDING = ("socket.connect", "socket.sendto", "socket.sendmsg")
ASKING = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")
OWN = re.compile(r"localhost|::1|127\.\d{1,3}\.\d{1,3}\.\d{1,3}", re.ASCII)


def block_sockets() -> None:
    """Refuse every attempt of this process's Python code to reach another machine; this can't be undone."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in (*SENDING, *ASKING):
        return
    target = arguments[0] if event in ASKING else arguments[1]
    host = target[0] if isinstance(target, tuple) else target
    is_path = event in SENDING and not isinstance(target, tuple)  # AF_UNIX: this machine
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    if host is not None and not is_path and not OWN.fullmatch(name):
        raise PermissionError(f"{event}: {host!r} is another machine, and this process may reach none")
