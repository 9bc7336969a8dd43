"""Transformers on a GGUF file, as a typical user loads it: `from_pretrained(folder, gguf_file=name)`.

It dequantizes everything to float32 and calls the model from Python once per token. The cache grows with the
text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM


def make() -> TransformersBackend:
    """Return the backend."""
    return TransformersBackend()


class TransformersBackend:
    """A backend with one model of Transformers and its cache of keys and values."""

    def __init__(self) -> None:
        self.model: Any = None
        self.cache: Any = None

    def start(self) -> None:
        """Silence progress bars and messages; everything is imported already."""
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        torch.set_num_threads(n_threads)
        self.model = self.cache = None
        file = Path(path)
        self.model = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32
        ).eval()

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> np.ndarray:
        return self.model(torch.tensor([list(ids)]), use_cache=False).logits[0].float().numpy()

    def prefill(self, ids: Sequence[int]) -> int:
        self.cache = None
        return self._run(ids)

    def step(self, token: int) -> int:
        return self._run([token])

    @torch.inference_mode()
    def _run(self, ids: Sequence[int]) -> int:
        found = self.model(
            torch.tensor([list(ids)]), past_key_values=self.cache, use_cache=True, logits_to_keep=1
        )
        self.cache = found.past_key_values
        return int(found.logits[0, -1].argmax())

    def about(self) -> dict[str, Any]:
        return {
            "n_threads": torch.get_num_threads(),
            "type_k": "f32",
            "version": transformers.__version__,
            "isa": torch.backends.cpu.get_cpu_capability(),
            "note": "gguf_file=, the usual way to load it: weights become float32, eager, growing cache",
        }
