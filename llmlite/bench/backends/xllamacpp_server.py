"""llama.cpp from a wheel, without a compiler: xllamacpp, through its Python API.

On x86-64, the wheel is one build for all processors with AVX2. It has neither AVX-512 nor VNNI, which is a
handicap; the backend's note says so. The API is llama.cpp's server inside the process. Decode is timed by the
server's own clock, because streamed chunks come late if a token is part of a character.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xllamacpp

from llmlite import gguf
from llmlite.bench.backends.system_info import instructions

GREEDY = {"temperature": 0.0, "samplers": ["temperature"], "ignore_eos": True, "cache_prompt": False}


def make() -> XllamacppBackend:
    """Return the backend."""
    return XllamacppBackend()


class XllamacppBackend:
    """A backend with one xllamacpp.Server, which has one slot."""

    def __init__(self) -> None:
        self.server: Any = None
        self.n_threads = self.n_vocab = self.plain_token = 0

    def start(self) -> None:
        """Do nothing: this file has imported everything."""

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        with gguf.read(path) as file:
            tokens = file.metadata["tokenizer.ggml.tokens"]
            self.n_vocab = len(tokens)
            self.plain_token = next(
                i for i, token in enumerate(tokens) if token.isascii() and token.isalpha()
            )
        self.server = None
        found = xllamacpp.CommonParams()
        found.model.path = path
        found.n_ctx = found.n_batch = n_ctx
        found.n_ubatch = min(n_ctx, 512)
        found.n_parallel = 1
        found.warmup = False
        found.verbosity = -1
        found.ctx_shift = False
        for cpu in (found.cpuparams, found.cpuparams_batch):
            cpu.n_threads = n_threads
        found.cache_type_k = found.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        found.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(found)
        self.n_threads = n_threads

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Return the server's log probabilities, float32 (T, V); in each row, logits differ by a constant."""
        rows = np.full((len(ids), self.n_vocab), -1e4, np.float32)
        for i in range(len(ids)):
            for entry in self._likely(ids[: i + 1], self.n_vocab):
                rows[i, entry["id"]] = entry["logprob"]
        return rows

    def prefill(self, ids: Sequence[int]) -> int:
        self._answer(ids, 1)
        return -1  # the token is reported only with the probabilities, which cost time

    def step(self, token: int) -> int:
        raise NotImplementedError("this library has its own decoding loop: use `write`")

    def write(self, ids: Sequence[int], n_gen: int) -> list[int]:
        """Return the nanoseconds of all `n_gen` tokens as one number, from the server's own clock."""
        timings = self._answer(ids, n_gen + 1)["timings"]
        if timings["predicted_n"] != n_gen + 1:
            raise RuntimeError(f"expected {n_gen + 1} tokens, got {timings['predicted_n']}")
        return [round(timings["predicted_ms"] * 1e6)]

    def greedy(self, ids: Sequence[int], n_gen: int) -> list[int]:
        tokens: list[int] = []
        for _ in range(n_gen):
            tokens.append(int(self._likely([*ids, *tokens], 1)[0]["id"]))
        return tokens

    def _likely(self, ids: Sequence[int], n_tokens: int) -> list[dict[str, Any]]:
        """Return the most likely next tokens and their log probabilities.

        The server holds back a token that is only part of a character, together with its probabilities. So a
        bias makes the server choose a plain word. It doesn't change the probabilities, because they are
        computed before sampling.
        """
        found = self._answer(
            ids, 1, logprobs=n_tokens, logit_bias=[[self.plain_token, 1e6]], cache_prompt=True
        )["choices"][0]
        return found["logprobs"]["content"][0]["top_logprobs"]

    def _answer(self, ids: Sequence[int], n_gen: int, **more: Any) -> dict[str, Any]:
        found = self.server.handle_completions({"prompt": list(ids), "max_tokens": n_gen, **GREEDY, **more})
        if not isinstance(found, dict) or "choices" not in found:
            raise RuntimeError(f"the server answered {str(found)[:200]}")
        return found

    def about(self) -> dict[str, Any]:
        isa = instructions(str(xllamacpp.get_system_info()))
        built = "a wheel built for AVX2, without AVX-512 and VNNI; " if "AVX2" in isa.split() else ""
        return {
            "n_threads": self.n_threads,
            "type_k": "f32",
            "version": xllamacpp.__version__,
            "isa": isa,
            "note": f"{built}decode is timed by its own clock, prefill with the request (0.3 ms more)",
        }
