"""The options of a comparison."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llmlite.bench.backends import by_name


@dataclass(frozen=True, kw_only=True)
class Options:
    """The models and backends to compare, and the limits on time.

    Attributes:
        model: "tales", "smollm2", or the path of a GGUF file.
        types: quantizations. None chooses the usual ones for "tales" and "smollm2", and the file's own type
            for a path. Types other than the file's own are quantized anew from its weights.
        backends: names of BACKENDS; empty for the default backends.
        threads: threads of every backend; None for as many as can run at once.
        blocks: number of rounds in which every backend has one turn. At least 5 are needed to establish a
            difference.
        prompts: lengths of the prompts to read; those longer than the context are left out, and a note says
            so.
        depths: tokens in the cache before decode starts. Depths that don't fit in the context are left out,
            and a note says so.
        n_gen: tokens to write.
        start_runs: fresh processes per backend for memory and start-up times, in addition to the main one.
        budget_seconds: seconds for the whole comparison; None for no limit. If they don't suffice, the number
            of blocks is reduced (to no less than five), then their length, and finally the number of
            backends.
        first_ever: start each backend that keeps compiled code or converted models once more, with empty
            caches.
        seed: seed of the random order of turns.
        quick: take about a minute instead of several, with shorter prompts, fewer tokens and a budget.
        every_pair: run every backend on every quantization, even a backend that unpacks weights to floats.
        timeout: seconds that any single step of a backend may take.
    """

    model: str = "tales"
    types: tuple[str, ...] | None = None
    backends: tuple[str, ...] = ()
    threads: int | None = None
    blocks: int = 10
    prompts: tuple[int, ...] = (64, 512)
    depths: tuple[int, ...] = (0, 512, 2048)
    n_gen: int = 128
    start_runs: int = 2
    budget_seconds: float | None = 900.0
    first_ever: bool = True
    seed: int = 0
    quick: bool = False
    every_pair: bool = False
    timeout: float = 300.0

    def __post_init__(self) -> None:
        for name in self.backends:
            by_name(name)
        if self.blocks < 1 or self.n_gen < 1 or min(self.prompts) < 1:
            raise ValueError("blocks, n_gen and prompts must be at least 1")
        if min(self.depths) < 0:
            raise ValueError("depths can't be negative")
        if self.budget_seconds is not None and not 0 < self.budget_seconds < float("inf"):
            raise ValueError(f"budget_seconds must be a positive number, got {self.budget_seconds}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if self.types is not None and not self.types:
            raise ValueError("types: name at least one quantization, such as F16")

    def shortened(self) -> Options:
        """Return the quick form of these options; it keeps every option that differs from its default."""
        defaults = Options()
        short: dict[str, Any] = {
            "blocks": 7,
            "prompts": (64, 256),
            "depths": (64,),
            "n_gen": 24,
            "start_runs": 1,
            "first_ever": False,
            "budget_seconds": 55.0,
        }
        return replace(self, **{k: v for k, v in short.items() if getattr(self, k) == getattr(defaults, k)})
