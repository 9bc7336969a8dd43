"""Run one side of `old_new.py`: load a model and take turns, with this checkout's llmlite or an older one.

It uses only functions that both have. Modules have moved since, so it finds a class through an object, such
as `type(model.cache)`.
"""

from __future__ import annotations

import json
import os
import sys
from time import perf_counter_ns, process_time_ns
from typing import Any

CHUNK = 256  # tokens of a prompt in one step, the same on both sides
FIRST_ID = 10


class Side:
    """Hold a loaded model, with one cache for each depth.

    Args:
        path: a GGUF file.
        n_threads: number of threads of the planned executor.
        longest: number of tokens of the longest cache.
    """

    def __init__(self, path: str, n_threads: int, longest: int) -> None:
        import numpy as np

        import llmlite

        self.model = llmlite.load(path, executor="planned", n_threads=n_threads, n_ctx=longest)
        ids = np.random.default_rng(0).integers(FIRST_ID, self.model.config.n_vocab, longest)
        self.ids = [int(i) for i in ids]
        self.longest, self.caches = longest, {}

    def unsupported(self) -> list[str]:
        """Return the types of the matrices that this llmlite has no kernels for, and multiplies by NumPy."""
        from llmlite.engine.families import FAMILIES

        types = {t.type for t in self.model.gguf.tensors.values() if len(t.shape) == 2}
        return sorted(kind.name for kind in types if kind.id not in FAMILIES)

    def turn(self, n_prompt: int, n_gen: int, n_depth: int, nanoseconds: int) -> dict[str, list[int]]:
        """Process `n_prompt` tokens or generate `n_gen` after `n_depth` others; repeat for `nanoseconds`.

        Returns:
            Nanoseconds of each repetition: wall time in "samples_ns", CPU time of all threads in "cpu_ns".
        """
        cache = self._cache(n_depth)
        samples: list[int] = []
        cpu: list[int] = []
        while sum(samples) < nanoseconds:
            cpu_begin, begin = process_time_ns(), perf_counter_ns()
            self._read(self.ids[:n_prompt], cache)
            for i in range(n_gen):
                self.model.executor([self.ids[i]], cache, n_outputs=1)
            samples.append(perf_counter_ns() - begin)
            cpu.append(process_time_ns() - cpu_begin)
            if hasattr(cache, "truncate"):
                cache.truncate(n_depth)
            else:
                del cache.ids[n_depth:]
        return {"samples_ns": samples, "cpu_ns": cpu}

    def _cache(self, n_depth: int) -> Any:
        if n_depth not in self.caches:
            import numpy as np

            cache = type(self.model.cache)(self.model.config, self.longest, np.float16)
            self._read(self.ids[:n_depth], cache)
            self.caches[n_depth] = cache
        return self.caches[n_depth]

    def _read(self, ids: list[int], cache: Any) -> None:
        for at in range(0, len(ids), CHUNK):
            self.model.executor(ids[at : at + CHUNK], cache, n_outputs=1)


def answer(request: dict[str, Any], sides: list[Side]) -> dict[str, Any]:
    """Run one request, {"do": "load" or "turn", …}; an exception becomes an answer, too."""
    arguments = dict(request)
    try:
        if arguments.pop("do") == "load":
            sides[:] = [Side(**arguments)]
            return {"ok": True, "unsupported": sides[0].unsupported()}
        return {"ok": True, **sides[0].turn(**arguments)}
    except Exception as error:  # report it: the parent decides
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer requests, one JSON object per line, until the parent closes stdin."""
    channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # send the prints of libraries to standard error
    sides: list[Side] = []
    channel.write(json.dumps({"ok": True}) + "\n")
    for line in sys.stdin:
        channel.write(json.dumps(answer(json.loads(line), sides)) + "\n")


if __name__ == "__main__":
    main()
