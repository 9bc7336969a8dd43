"""OpenVINO GenAI, which reads the GGUF file itself.

On loading, it converts the file's blocks to its own types. It returns tokens, not logits, so agreement is
judged by the best token after each prefix of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from time import perf_counter_ns
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai


def make() -> OpenVinoBackend:
    """Return the backend."""
    return OpenVinoBackend()


class _Clock(openvino_genai.StreamerBase):
    """A streamer that records each token and the time at which it came."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[int] = []
        self.tokens: list[int] = []

    def write(self, tokens: Any) -> Any:
        now = perf_counter_ns()
        for token in tokens if isinstance(tokens, list) else [tokens]:
            self.times.append(now)
            self.tokens.append(int(token))
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Do nothing: there is nothing to flush."""


class OpenVinoBackend:
    """A backend with one LLMPipeline."""

    def __init__(self) -> None:
        self.pipeline: Any = None
        self.n_threads = 0

    def start(self) -> None:
        """Do nothing: this file has imported everything."""

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        self.pipeline = None
        # Attention is SDPA, not paged: there is only one sequence, and paged attention has an 8-bit cache.
        # The cache is float32, as everywhere in the comparison; by default it would have 8 bits.
        self.pipeline = openvino_genai.LLMPipeline(
            path,
            "CPU",
            INFERENCE_NUM_THREADS=n_threads,
            ATTENTION_BACKEND="SDPA",
            KV_CACHE_PRECISION=ov.Type.f32,
        )
        self.n_threads = n_threads

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        raise NotImplementedError("OpenVINO GenAI returns tokens, not logits")

    def prefill(self, ids: Sequence[int]) -> int:
        return self._generate(ids, 1).tokens[0]

    def step(self, token: int) -> int:
        raise NotImplementedError("this library has its own decoding loop: use `write`")

    def write(self, ids: Sequence[int], n_gen: int) -> list[int]:
        times = self._generate(ids, n_gen + 1).times
        return [later - earlier for earlier, later in pairwise(times)]

    def greedy(self, ids: Sequence[int], n_gen: int) -> list[int]:
        return self._generate(ids, n_gen).tokens

    def _generate(self, ids: Sequence[int], n_gen: int) -> _Clock:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = n_gen, True, False
        array = np.array([list(ids)], np.int64)
        clock = _Clock()
        inputs = openvino_genai.TokenizedInputs(ov.Tensor(array), ov.Tensor(np.ones_like(array)))
        self.pipeline.generate(inputs, config, clock)
        if len(clock.tokens) != n_gen:
            raise RuntimeError(f"expected {n_gen} tokens, got {len(clock.tokens)}")
        return clock

    def about(self) -> dict[str, Any]:
        return {
            "n_threads": self.n_threads,
            "type_k": "f32",
            "version": openvino_genai.__version__,
            "isa": f"chosen at run time, computes in {_precision()}",
            "note": "converts the blocks to its own types on loading; "
            "looks up a name on the network once, but also works without a network",
        }


def _precision() -> str:
    """Return the type in which its CPU plugin computes here, such as "bfloat16"."""
    return ov.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
