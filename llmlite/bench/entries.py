"""One backend on one file: its process, started with the settings that make the backend fastest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

from llmlite.bench import environment
from llmlite.bench.backends import BackendInfo
from llmlite.bench.inputs import ModelFile
from llmlite.bench.process import BackendError, WorkerProcess

# OpenMP's threads spin or sleep while they wait. On a quiet machine, spinning is faster; on a busy one, it
# can cost two thirds of the speed. So each OpenMP backend is tried both ways, and the faster way is used.
POLICIES: dict[str, dict[str, str]] = {"spin": {}, "passive": {"OMP_WAIT_POLICY": "passive"}}
# The folders in which backends keep compiled code and converted models.
CACHES = ("LLMLITE_CACHE", "TORCHINDUCTOR_CACHE_DIR")
PROBES = 3  # runs of each policy, in turns
PROBE = (32, 12)  # tokens of prefill and of decode
UNPACKED = 4  # at most this many bytes per weight while a library loads quantized weights and unpacks them
KEPT = 2  # at most this many times the file's bytes: the mapped file and a repacked copy


@dataclass
class Entry:
    """One backend on one file, and its process while one is running."""

    info: BackendInfo
    file: ModelFile
    worker: WorkerProcess | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> dict[str, Any]:
        return {"backend": self.info.name, "model_type": self.file.model_type}

    @property
    def label(self) -> str:
        return f"{self.info.name} {self.file.model_type}"

    @property
    def n_bytes(self) -> int:
        """Rough upper limit of the bytes that its process takes for weights."""
        if self.info.maps_file:
            return self.file.n_bytes
        return self.file.n_bytes * KEPT if self.info.keeps_quantized else self.file.n_params * UNPACKED

    @property
    def type_k(self) -> str:
        return str(self.about.get("type_k", "f32"))

    @property
    def own_quantization(self) -> bool:
        return bool(self.about.get("own_quantization"))

    def ask(self, action: str, **arguments: Any) -> dict[str, Any]:
        assert self.worker is not None
        return self.worker.ask(action, **arguments)

    def answering_within(self, seconds: float) -> AbstractContextManager[None]:
        """Allow this many seconds for all requests inside the block together."""
        assert self.worker is not None
        return self.worker.answering_within(seconds)

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.close()
            self.worker = None


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """A launcher that starts all workers in the same way.

    Attributes:
        n_threads: threads of every backend.
        n_ctx: positions in the cache.
        timeout: seconds to wait for any answer.
        prompt: token ids of the first prompt.
        lengths: lengths of the prompts to come, for backends that compile.
        policies: names of the waiting policies chosen so far, by backend.
    """

    n_threads: int
    n_ctx: int
    timeout: float
    prompt: Sequence[int]
    lengths: Sequence[int]
    policies: dict[str, str] = field(default_factory=dict)

    def process(self, info: BackendInfo, variables: Mapping[str, str] | None = None) -> WorkerProcess:
        """Start a backend's interpreter, in the backend's own environment if it has one.

        Raises:
            BackendError: the process doesn't start.
        """
        chosen = POLICIES[self.policies.get(info.name, "spin")]
        return WorkerProcess(
            info.name,
            self.n_threads,
            timeout=self.timeout,
            python=info.python() or None,
            variables=chosen if variables is None else variables,
        )

    def load(self, worker: WorkerProcess, file: ModelFile) -> dict[str, Any]:
        """Load a file into a started worker and return its answer."""
        return worker.ask("load", model=str(file.path), n_ctx=self.n_ctx, n_threads=self.n_threads)

    def launch(
        self,
        entry: Entry,
        stack: ExitStack,
        *,
        variables: Mapping[str, str] | None = None,
        after_load: Callable[[WorkerProcess], None] | None = None,
    ) -> tuple[WorkerProcess, dict[str, int]]:
        """Start a process, import the library, convert, load and compile the model, and make the first token.

        Args:
            entry: the backend and the file.
            stack: exit stack that closes the process.
            variables: environment variables; None for those of the chosen waiting policy.
            after_load: called with the worker when the model is loaded.

        Returns:
            The worker, and the nanoseconds of each phase. The names of the phases end in "_cold" if the
            backend had to compile code that it keeps between runs.

        Raises:
            BackendError: the process failed.
        """
        worker = self.process(entry.info, variables)
        stack.callback(worker.close)
        times = {"start": worker.start_ns, "import": worker.ask("start")["ns"]}
        converted = worker.ask("convert", model=str(entry.file.path), n_ctx=self.n_ctx)
        if converted["converted"]:
            times["convert"] = converted["ns"]
        loaded = self.load(worker, entry.file)
        times["load"] = loaded["ns"]
        entry.about = loaded["about"]
        if after_load:
            after_load(worker)
        compiled = worker.ask("compile", lengths=list(self.lengths))
        if compiled["compiled"]:
            times["compile"] = compiled["ns"]
        first = worker.ask("first_token", ids=list(self.prompt))
        times["first_token"] = first["ns"]
        cold = "_cold" if first["compiled"] or compiled.get("anew") else ""
        return worker, {phase + cold: ns for phase, ns in times.items()}

    def first_ever(self, entry: Entry, stack: ExitStack, folder: str) -> dict[str, int]:
        """Start an entry with an empty cache folder, close it, and return the nanoseconds of each phase.

        Args:
            entry: the backend and the file.
            stack: closes the process if this fails.
            folder: an empty folder.

        Raises:
            BackendError: the process failed.
        """
        chosen = POLICIES[self.policies.get(entry.info.name, "spin")]
        worker, times = self.launch(entry, stack, variables={**chosen, **dict.fromkeys(CACHES, folder)})
        worker.close()
        return {phase.removesuffix("_cold"): ns for phase, ns in times.items()}

    def choose_policy(self, entry: Entry, stack: ExitStack) -> tuple[WorkerProcess, dict[str, int]]:
        """Start an OpenMP backend with each waiting policy; keep the faster one and remember its policy."""
        launched = {
            name: self.launch(entry, stack, variables=variables) for name, variables in POLICIES.items()
        }
        best: dict[str, int] = {}
        ids = (list(self.prompt) * (1 + PROBE[0] // len(self.prompt)))[: PROBE[0]]
        for _ in range(PROBES):
            for name, (worker, _times) in launched.items():
                ns = worker.ask("decode", ids=ids, n_gen=PROBE[1])["samples_ns"][0]
                best[name] = min(ns, best.get(name, ns))
        faster = min(best, key=lambda name: best[name])
        self.policies[entry.info.name] = faster
        for name, (worker, _times) in launched.items():
            if name != faster:
                worker.close()
        return launched[faster]

    def start(self, entry: Entry, stack: ExitStack) -> dict[str, int]:
        """Start the entry's process and return the nanoseconds of each phase of the start.

        Raises:
            BackendError: the process failed, or this machine has too little memory for it.
        """
        need, available = entry.n_bytes, environment.available_memory()
        if available is not None and need > available:
            raise BackendError(
                f"it may need {need / 1e9:.1f} GB of memory, but {available / 1e9:.1f} GB are available"
            )
        undecided = entry.info.openmp and entry.info.name not in self.policies
        both_fit = available is None or 2 * need <= available  # otherwise take the usual policy untried
        if undecided and both_fit and self.n_threads > 1:
            worker, times = self.choose_policy(entry, stack)
        else:
            worker, times = self.launch(entry, stack)
        if entry.info.openmp:
            entry.about["wait_policy"] = self.policies.get(entry.info.name, "spin")
        entry.worker = worker
        return times


__all__ = ["POLICIES", "BackendError", "Entry", "Launcher"]
