"""The parent's side of a worker: start it, send it requests, wait with a time limit, and stop it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic, perf_counter_ns
from typing import Any

from llmlite.errors import LlmliteError

PACKAGE = Path(__file__).resolve().parents[1]
# The worker finds this copy of llmlite, whether it is installed or not. It finds no other package in the same
# folder, because another interpreter must not see this one's packages. -P hides the current folder.
FIND_LLMLITE = """\
import importlib.util, sys
root = sys.argv[2]
spec = importlib.util.spec_from_file_location(
    "llmlite", root + "/__init__.py", submodule_search_locations=[root]
)
sys.modules["llmlite"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
"""
BOOT = f"""{FIND_LLMLITE}
from llmlite.bench.worker import main
sys.exit(main())
"""
EXPERIMENT = f"""{FIND_LLMLITE}
import json, os
channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)  # what a library prints goes to stderr
found = importlib.import_module("llmlite.bench.experiments." + sys.argv[1]).run(**json.loads(sys.argv[3]))
channel.write(json.dumps(found))
channel.close()
"""
# Libraries read these variables on import, so setting them inside the process would be too late.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)
# No library contacts a hub, none sends telemetry, and all of them compute on the CPU.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


class BackendError(LlmliteError):
    """Raised if a backend's process failed, ended or didn't answer in time; the message names the reason."""


class BackendTimeoutError(BackendError):
    """Raised if a backend didn't answer in time; its process has been killed."""


def run_experiment(
    name: str, python: str = "", *, timeout: float = 300.0, **arguments: Any
) -> dict[str, Any]:
    """Run `llmlite.bench.experiments.NAME` in a fresh interpreter and return its result.

    Args:
        name: name of the module.
        python: the interpreter; "" for this one.
        timeout: seconds to wait for the result.
        arguments: arguments for its function `run`, as JSON values.

    Raises:
        BackendError: it failed, or it took longer than `timeout`. After a failure, the message has the last
            line that it printed.
    """
    other = bool(python) and python != sys.executable
    dropped = ("PYTHONPATH", "PYTHONHOME") if other else ()
    variables = {key: value for key, value in os.environ.items() if key not in dropped} | OFFLINE
    command = [python or sys.executable, "-P", "-c", EXPERIMENT, name, str(PACKAGE), json.dumps(arguments)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=variables, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"{name}: no answer in {timeout:g} seconds") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise BackendError(f"{name}: {said[-1] if said else f'exit code {done.returncode}'}")
    return json.loads(done.stdout)


class WorkerProcess:
    """One backend in a fresh interpreter.

    Args:
        backend: a name of BACKENDS.
        n_threads: number of threads. It is set in the environment before the interpreter starts; the backend
            also sets it through the library's API.
        timeout: seconds to wait for any answer.
        python: the interpreter; None for this one.
        variables: additional environment variables, such as {"OMP_WAIT_POLICY": "passive"}.
        prefix: a command that starts the interpreter, such as ("unshare", "-rn").
        package: folder of the copy of llmlite to import; by default this one.
        program: Python code to run; by default that copy's worker. It must begin with FIND_LLMLITE and answer
            requests as the worker does.

    Raises:
        BackendError: the process doesn't start.
    """

    def __init__(
        self,
        backend: str,
        n_threads: int,
        *,
        timeout: float = 300.0,
        python: str | None = None,
        variables: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        package: Path = PACKAGE,
        program: str = BOOT,
    ) -> None:
        self.backend = backend
        self.timeout = timeout
        self._deadline: float | None = None
        environment = {**os.environ, **{name: str(n_threads) for name in THREAD_VARIABLES}}
        environment.update(OFFLINE, PYTHONUNBUFFERED="1")
        environment.update(variables or {})
        if python and python != sys.executable:
            for name in ("PYTHONPATH", "PYTHONHOME"):
                environment.pop(name, None)
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed in close()
        self._answers: queue.Queue[str | None] = queue.Queue()
        begin = perf_counter_ns()
        self._process = subprocess.Popen(
            [*prefix, python or sys.executable, "-P", "-c", program, backend, str(package)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            encoding="utf-8",
            bufsize=1,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self._receive("start")
        self.start_ns = perf_counter_ns() - begin

    @property
    def pid(self) -> int:
        """The process's number, by which the system reports its memory."""
        return self._process.pid

    @contextlib.contextmanager
    def answering_within(self, seconds: float) -> Iterator[None]:
        """Allow this many seconds for all requests inside the block together.

        Raises:
            BackendTimeoutError: a request came or ran after that time; the process has been killed.
        """
        usual, self._deadline = self.timeout, monotonic() + seconds
        try:
            yield
        finally:
            self.timeout, self._deadline = usual, None

    def ask(self, action: str, **arguments: Any) -> dict[str, Any]:
        """Send one request and return its answer.

        Raises:
            BackendError: the backend failed, ended or took longer than `timeout`.
        """
        assert self._process.stdin is not None
        if self._deadline is not None:
            self.timeout = self._deadline - monotonic()
            if self.timeout <= 0:
                self._process.kill()
                raise BackendTimeoutError(f"{self.backend}, {action}: its time ran out before the request")
        try:
            self._process.stdin.write(json.dumps({"do": action, **arguments}) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise BackendError(self._epitaph(action)) from None
        answer = self._receive(action)
        if not answer["ok"]:
            raise BackendError(f"{self.backend}, {action}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process: ask it to stop, and kill it if it doesn't."""
        process = self._process
        if process.stdin and not process.stdin.closed:
            with contextlib.suppress(OSError):  # it has ended already
                process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()
        self._errors.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._answers.put(line)
        except ValueError:
            pass  # closed while waiting
        self._answers.put(None)

    def _receive(self, action: str) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=self.timeout)
        except queue.Empty:
            self._process.kill()
            reason = f"{self.backend}, {action}: no answer in {self.timeout:.3g} seconds"
            raise BackendTimeoutError(reason) from None
        if line is None:
            raise BackendError(self._epitaph(action))
        return json.loads(line)

    def _epitaph(self, action: str) -> str:
        """Return a sentence on the end of the process, with its exit code and the last line it printed."""
        code = self._process.wait(timeout=10)
        self._errors.seek(0)
        said = [line for line in self._errors.read().splitlines() if line.strip()]
        last = said[-1] if said else "no message"
        return f"{self.backend}, {action}: its process ended with code {code}; {last}"
