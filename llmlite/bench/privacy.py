"""Does a backend compute without a network? Run it where there is none, and count its system calls.

If the system offers neither a namespace nor strace, its Python code's sockets are blocked instead.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmlite.bench import offline
from llmlite.bench.backends import BackendInfo
from llmlite.bench.process import BackendError, WorkerProcess

UNSHARE = ("unshare", "-rn")  # a network namespace of its own, without any device; works without root
TRACE = ("strace", "-f", "-qq", "-e", "trace=connect,bind,sendto,sendmsg")
# sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("1.2.3.4"), or inet_pton(AF_INET6, "::1", ...)
INTERNET = re.compile(r'sa_family=AF_INET6?\b.*?(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"')
OWN = ("0.0.0.0", "::", "::1")  # any address of this machine, and IPv6's loopback


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """What was seen of one backend.

    Args:
        isolated: True when it computed without a network; None where that can't be tried.
        n_calls: system calls to addresses outside this machine; None where nobody can count.
        local: addresses of this machine that it used. reason: why it failed, or wasn't tried.
        blocked: True when it computed although its Python code could reach no machine; None if that wasn't
            tried, because a better way was there.
    """

    backend: str
    isolated: bool | None
    n_calls: int | None
    local: tuple[str, ...] = ()
    reason: str = ""
    blocked: bool | None = None


def can_isolate() -> bool:
    """Whether this system gives a process a network namespace of its own without root."""
    if sys.platform != "linux" or shutil.which(UNSHARE[0]) is None:
        return False
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def examine(
    info: BackendInfo, model: str, ids: Sequence[int], *, n_ctx: int = 64, timeout: float = 240.0
) -> Privacy:
    """Let a backend load a model and write some tokens without a network, then with one under strace.

    Args:
        model: a GGUF file. ids: the prompt.
    """
    isolated: bool | None = None
    reason = "this system gives no network namespace (unshare -rn)"
    if can_isolate():
        try:
            _work(info, model, ids, n_ctx, timeout, UNSHARE)
            isolated, reason = True, ""
        except BackendError as error:
            isolated, reason = False, str(error)
    n_calls, local = _count(info, model, ids, n_ctx, timeout)
    blocked: bool | None = None
    if isolated is None and n_calls is None:
        try:
            _work(info, model, ids, n_ctx, timeout, (), {offline.VARIABLE: "1"})
            blocked = True
        except BackendError as error:
            blocked, reason = False, str(error)
    return Privacy(
        backend=info.name, isolated=isolated, n_calls=n_calls, local=local, reason=reason, blocked=blocked
    )


def _work(
    info: BackendInfo,
    model: str,
    ids: Sequence[int],
    n_ctx: int,
    timeout: float,
    prefix: Sequence[str],
    variables: Mapping[str, str] | None = None,
) -> None:
    python = info.python() or None
    with WorkerProcess(
        info.name, 1, timeout=timeout, python=python, prefix=prefix, variables=variables
    ) as worker:
        worker.ask("start")
        worker.ask("convert", model=model, n_ctx=n_ctx)
        worker.ask("load", model=model, n_ctx=n_ctx, n_threads=1)
        worker.ask("decode", ids=list(ids), n_gen=4)


def _count(
    info: BackendInfo, model: str, ids: Sequence[int], n_ctx: int, timeout: float
) -> tuple[int | None, tuple[str, ...]]:
    if shutil.which(TRACE[0]) is None:
        return None, ()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "calls"
        try:
            _work(info, model, ids, n_ctx, timeout, (*TRACE, "-o", str(log)))
        except BackendError:
            return None, ()
        return parse(log.read_text(errors="replace"))


def parse(log: str) -> tuple[int, tuple[str, ...]]:
    """Return how many calls in strace's log went outside, and which addresses of this machine were used."""
    addresses = INTERNET.findall(log)
    local = [address for address in addresses if address.startswith("127.") or address in OWN]
    return len(addresses) - len(local), tuple(sorted(set(local)))
