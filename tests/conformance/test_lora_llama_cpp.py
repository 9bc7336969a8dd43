"""LoRA adapters against llama.cpp: the same file, the same scales, the same logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from tests.support.adapters import BASES, random_pairs, write_adapter
from tests.support.llama_cpp import random_ids, run_llama_cpp
from tests.support.tiny_models import tiny_model

pytestmark = pytest.mark.conformance


@pytest.mark.parametrize(
    ("architecture", "rank"), [("llama", 4), ("llama", 33), ("qwen3", 5), ("qwen3moe", 4)]
)
def test_llama_cpp_means_the_same_by_adapters(architecture: str, rank: int, tmp_path: Path) -> None:
    base, ids = tiny_model(architecture, **BASES[architecture]), random_ids(60)
    path = base.write(tmp_path / "base.gguf")
    first, second = (random_pairs(base, rank, seed) for seed in (0, 1))
    adapters = (
        (write_adapter(tmp_path / "first.gguf", base, first, alpha=4), 0.5),
        (write_adapter(tmp_path / "second.gguf", base, second, alpha=0), -0.25),
    )
    want = run_llama_cpp(path, ids, tmp_path, adapters=adapters)["logits"]
    without = run_llama_cpp(path, ids, tmp_path)["logits"]
    for executor in ("eager", "planned"):
        model = ll.load(path, lora=list(adapters), kv_dtype="f32", executor=executor)
        off = np.abs(model.logits(ids) - want).max() / np.abs(want).max()
        print(f"{architecture}, rank {rank}, {executor}: off by {off:.1e} of the largest logit")
        assert off <= 1e-3
    assert np.abs(without - want).max() > 0.1 * np.abs(want).max()
