"""What a comparison may be asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llmlite.bench.backends import by_name


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare and how long.

    Args:
        model: "tales", "smollm2", or the path of a GGUF file.
        types: quantizations; None for the usual ones of "tales" and "smollm2", and for a path the file as it
            is. Other types than a file's own are quantized anew from its weights.
        backends: names of BACKENDS; empty for the default ones.
        threads: for every backend; None for as many as can run at once.
        blocks: rounds in which every backend has one turn; at least 5 to call a difference.
        prompts: lengths of the prompts to read; longer ones than the context are left out.
        depths: tokens in the cache before writing starts; those that the context has no room for are left
            out, and a note says so.
        n_gen: tokens to write.
        start_runs: fresh processes per backend for memory and start-up times, beside the living one.
        budget_seconds: for the whole. Blocks, their length and at last the backends are planned so that five
            blocks finish in it; None for no limit.
        seed: of the order of turns.
        quick: about a minute instead of several: shorter prompts, fewer tokens, a budget.
        every_pair: also run backends that unpack weights to floats on every quantization.
        timeout: seconds any one step of a backend may take.
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
        """Return the quick form of these options, with what was asked for otherwise kept."""
        defaults = Options()
        short: dict[str, Any] = {
            "blocks": 7,
            "prompts": (64, 256),
            "depths": (64,),
            "n_gen": 24,
            "start_runs": 1,
            "budget_seconds": 55.0,
        }
        return replace(self, **{k: v for k, v in short.items() if getattr(self, k) == getattr(defaults, k)})
