"""The same ids give the same bits: whatever the cut, the threads, the neighbours, and what ran before.

This is the promise of docs/numerics.md for one CPU target. Matrix products alone:
tests/engine/test_same_bits.py; attention alone: tests/engine/test_attention.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite.description.architectures import ARCHITECTURES
from llmlite.engine.kv_cache import CHUNK, KVCache
from llmlite.model import Model
from tests.support.planned import assert_neighbours_change_nothing
from tests.support.tiny_models import tiny_model

N_IDS = 330  # longer than a step, than a part of positions, and than the tiny windows
IDS = np.random.default_rng(11).integers(0, 267, N_IDS).tolist()
CUTS = (1, 2, 7, 37, 64, CHUNK + 1)
KINDS = {
    "llama F32": ({}, "F32"),
    "llama Q4_0": ({}, "Q4_0"),
    "llama Q8_0": ({}, "Q8_0"),
    "llama Q4_K": ({"n_embd": 256, "n_ff": 256, "n_head": 8}, "Q4_K"),
    "llama experts Q8_0": ({"n_expert": 4}, "Q8_0"),
    "deepseek2 F32": ({"architecture": "deepseek2"}, "F32"),
    "deepseek2 Q8_0": ({"architecture": "deepseek2", "n_expert": 4}, "Q8_0"),
    "gpt2 F16": ({"architecture": "gpt2", "n_head_kv": 4}, "F16"),
    "gemma2 Q4_1": ({"architecture": "gemma2"}, "Q4_1"),
    "gemma3 Q8_0": ({"architecture": "gemma3", "n_layer": 7}, "Q8_0"),
    "lfm2 Q8_0": ({"architecture": "lfm2", "n_layer": 4}, "Q8_0"),
    "mamba Q8_0": ({"architecture": "mamba"}, "Q8_0"),
    "mamba2 Q8_0": ({"architecture": "mamba2"}, "Q8_0"),
    "phi2 Q5_0": ({"architecture": "phi2", "n_head_kv": 4}, "Q5_0"),
}
EVERY_TYPE = ("Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q2_K", "Q3_K", "Q5_K", "Q6_K", "BF16")
KINDS |= {f"llama {name}": ({"n_embd": 256, "n_ff": 256, "n_head": 8}, name) for name in EVERY_TYPE}
FAST = ("llama Q4_0", "gemma3 Q8_0", "deepseek2 Q8_0")
PARAMETERS = [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


@pytest.fixture(scope="module", params=PARAMETERS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options, type_name = KINDS[request.param]
    made = tiny_model(n_ctx=512, seed=3, **options)
    prefix = made.metadata["general.architecture"]
    if prefix.startswith("gemma"):
        made.metadata[f"{prefix}.attention.sliding_window"] = 40
    return made.write(tmp_path_factory.mktemp("models") / "tiny.gguf", type_name)


def loaded(path: Path, **options: object) -> Model:
    model = ll.load(path, executor="planned", **options)
    assert not any(op.kernel is None for plan in model.executor._plans.values() for op in plan.ops)
    return model


@pytest.fixture(scope="module")
def want(path: Path) -> np.ndarray:
    """The logits after IDS, of a fresh model that reads them at once."""
    return loaded(path).logits(IDS, last_only=True)[0]


@pytest.mark.parametrize("size", CUTS)
def test_any_cut_of_the_prompt(path: Path, want: np.ndarray, size: int) -> None:
    model = loaded(path)
    for end in [*range(size, N_IDS, size), N_IDS]:
        reused, got = model._next_logits(IDS[:end])
        assert reused == (end - 1) // size * size
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_any_number_of_threads(path: Path, want: np.ndarray, n_threads: int) -> None:
    model = loaded(path, n_threads=n_threads)
    np.testing.assert_array_equal(model.logits(IDS, last_only=True)[0], want)
    _, got = model._next_logits([*IDS, 5])
    _, again = loaded(path)._next_logits([*IDS, 5])
    np.testing.assert_array_equal(got, again)


def test_all_logits_are_those_of_each_prefix(path: Path) -> None:
    model = loaded(path)
    rows = model.logits(IDS)
    for n in (1, 2, 40, 41, 64, 65, 256, 257, N_IDS):
        np.testing.assert_array_equal(model.logits(IDS[:n], last_only=True)[0], rows[n - 1])


def test_the_same_call_twice_gives_the_same_text(path: Path) -> None:
    model = loaded(path)
    first = model.generate(IDS[:50], max_tokens=40, temperature=0)
    assert model.generate(IDS[:50], max_tokens=40, temperature=0) == first
    assert loaded(path).generate(IDS[:50], max_tokens=40, temperature=0) == first


def test_a_second_turn_after_generating_is_read_as_by_a_fresh_model(path: Path) -> None:
    model = loaded(path)
    turn = model.stream(IDS[:60], max_tokens=30, temperature=0)
    list(turn)
    ids = [*IDS[:60], *turn.ids, *IDS[60:90]]
    _, got = model._next_logits(ids)
    np.testing.assert_array_equal(got, loaded(path).logits(ids, last_only=True)[0])


def test_neighbours_in_a_step_change_nothing(path: Path) -> None:
    """Sequences of unlike lengths, some reading a prompt and some a single token, against each one alone."""
    model = loaded(path)
    assert_neighbours_change_nothing(model, [IDS[:1], IDS[:37], IDS[:130], IDS[100:101], IDS[7:N_IDS]])


# Every decoder's entry: three cuts, one thread, a batch.
DECODERS = [
    pytest.param(
        name, {"n_expert": 4} if entry.expert_count_required else {}, id=name, marks=pytest.mark.slow
    )
    for name, entry in ARCHITECTURES.items()
    if entry.causal
]


@pytest.mark.parametrize(("name", "options"), DECODERS)
def test_every_architecture_has_the_bits_of_a_fresh_model(
    name: str, options: dict[str, int], tmp_path: Path
) -> None:
    made = tiny_model(name, n_ctx=512, n_head_kv=4, seed=5, **options)
    model = loaded(made.write(tmp_path / "tiny.gguf", "Q8_0"), n_threads=2)
    ids = IDS[:150]
    rows = model.logits(ids)

    def read(cuts: list[int]) -> np.ndarray:
        cache, got = KVCache(model.config, 512, np.float16), []
        for start, end in zip([0, *cuts], [*cuts, len(ids)]):
            got.append(model.executor(ids[start:end], cache, n_outputs=end - start))
        return np.concatenate(got)

    for cuts in ([1, 3, 10, 47, 111], [*range(16, 150, 16)], [*range(60, 150)]):
        np.testing.assert_array_equal(read(cuts), rows)
    np.testing.assert_array_equal(loaded(tmp_path / "tiny.gguf", n_threads=1).logits(ids), rows)
    caches = [KVCache(model.config, 512, np.float16) for _ in range(3)]
    pieces = [(ids[:9], caches[0], 1), (ids, caches[1], 1), (ids[:40], caches[2], 1)]
    for (part, _, _), got in zip(pieces, model.executor.batch(pieces)):
        np.testing.assert_array_equal(got[0], rows[len(part) - 1])
