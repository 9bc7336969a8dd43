"""Test whether a backend computes without a network.

The backend runs in a namespace without a network, and once more under strace, which shows its system calls to
other machines. If the system offers neither, connections from the backend's Python code are blocked instead.
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

UNSHARE = ("unshare", "-rn")  # a new network namespace without any device; works without root
# --seccomp-bpf: only these calls stop the process, so that a compiler's millions of others cost nothing
TRACE = ("strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,bind,sendto,sendmsg,sendmmsg")
# sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("1.2.3.4"), or inet_pton(AF_INET6, "::1", ...)
INTERNET = re.compile(
    r'sa_family=AF_INET6?\b, sin6?_port=htons\((\d+)\).*?(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"'
)
# A resolver on this machine (systemd-resolved, dnsmasq) asks other machines for a name, so a question to it
# counts as a call to them.
DNS = "53"
RESOLVER = re.compile(r'sun_path="/run/systemd/resolve/')
OWN = ("0.0.0.0", "::", "::1")  # any address of this machine, and IPv6's loopback


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """The observations of one backend.

    Attributes:
        backend: name of the backend.
        isolated: whether it computed without a network; None if that couldn't be tried.
        n_calls: number of system calls to addresses outside this machine, and to its resolver of names; None
            if they couldn't be counted.
        local: addresses of this machine that it used.
        reason: the reason for a failure, or for not trying; "" if there is none.
        blocked: whether it computed although its Python code could reach no other machine; None if that
            wasn't tried, because a better method was available.
    """

    backend: str
    isolated: bool | None
    n_calls: int | None
    local: tuple[str, ...] = ()
    reason: str = ""
    blocked: bool | None = None


def can_isolate() -> bool:
    """Return whether this system gives a process without root rights its own network namespace."""
    if sys.platform != "linux" or shutil.which(UNSHARE[0]) is None:
        return False
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def examine_backend(
    info: BackendInfo, model: str, ids: Sequence[int], *, n_ctx: int = 64, timeout: float = 240.0
) -> Privacy:
    """Run a backend on a model for a few tokens, first without a network, then with one and under strace.

    Args:
        info: the backend.
        model: a GGUF file.
        ids: token ids of the prompt.
        n_ctx: positions in the cache.
        timeout: seconds that any single step may take.
    """
    isolated: bool | None = None
    reason = "this system doesn't allow a network namespace (unshare -rn)"
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
        return parse_trace(log.read_text(errors="replace"))


def parse_trace(log: str) -> tuple[int, tuple[str, ...]]:
    """Return the number of calls to other machines in strace's log, and this machine's addresses in it."""
    calls = INTERNET.findall(log)
    local = [
        address for port, address in calls if port != DNS and (address.startswith("127.") or address in OWN)
    ]
    return len(calls) - len(local) + len(RESOLVER.findall(log)), tuple(sorted(set(local)))
