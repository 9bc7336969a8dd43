"""Cuts and draws that don't sort a whole vocabulary: always what sorting all of it gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmlite import deterministic
from llmlite.errors import SamplingError
from llmlite.sampling import Sampler, TopP, partial
from llmlite.sampling.candidates import ranked
from llmlite.sampling.partial import drawn, nucleus, place_of


def some_logits(random: np.random.Generator, n_vocab: int, spread: float) -> np.ndarray:
    logits = (spread * random.standard_normal(n_vocab)).astype(random.choice([np.float32, np.float64]))
    if random.random() < 0.5:
        logits = logits.round(1)  # many equals
    if random.random() < 0.5:
        logits[random.integers(n_vocab, size=n_vocab)] = -np.inf
        logits[random.integers(n_vocab, size=2)] = 1.0
    if random.random() < 0.2:
        logits *= 1000
    return logits


@pytest.mark.parametrize("n_vocab", [3, 256, 257, 3000, 20_000])
@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0, 9.0])
def test_a_nucleus_and_a_draw_are_those_of_the_sorted_vocabulary(n_vocab: int, spread: float) -> None:
    random = np.random.default_rng(n_vocab)
    for _ in range(6):
        logits = some_logits(random, n_vocab, spread)
        whole = ranked(logits)
        weights = deterministic.exp(whole.logits - whole.logits[0])
        edges = np.cumsum(whole.probabilities)[[0, len(whole.ids) // 3, -1]]  # where the last bit decides
        for p in (0.0, 0.3, 0.95, 0.999999, *edges, *np.nextafter(edges, 0), *np.nextafter(edges, 1)):
            p = min(1.0, float(p))
            want, got = TopP(p=p)(whole) if p < 1 else None, nucleus(logits, p)
            if want is not None:
                np.testing.assert_array_equal(got.ids, want.ids)
                np.testing.assert_array_equal(got.logits, want.logits)
        if len(whole.ids) > 1:
            reached = np.cumsum(weights)
            edges = reached[[0, len(reached) // 3, -1]] / reached[-1]
            for u in (0.0, 0.5, 1 - 2.0**-53, *random.random(9), *edges, *np.nextafter(edges, 0)):
                u = min(float(u), 1 - 2.0**-53)
                assert drawn(logits, u) == whole.ids[place_of(weights, u)]


@pytest.mark.parametrize("scale", [1.0, 1e-3, 30.0])
def test_the_quick_sum_is_as_good_as_its_bound_says(scale: float) -> None:
    random = np.random.default_rng(0)
    for n_vocab in (5, 4096, 300_000):
        logits = (scale * random.standard_normal(n_vocab)).astype(np.float32)
        exact = float(deterministic.total(deterministic.exp(logits - logits.max().astype(np.float64))))
        assert abs(partial._total(logits) / exact - 1) < partial.ERROR / 4


SETTINGS: list[dict[str, Any]] = [
    {"top_k": 0},
    {"top_k": 0, "top_p": 1.0, "temperature": 1.0},
    {"top_k": 0, "top_p": 1.0, "temperature": 1.7, "repeat_penalty": 1.2},
    {"top_k": 0, "top_p": 0.5, "xtc_probability": 0.5, "min_p": 0.01},
    {"top_k": 0, "top_p": 1.0, "min_p": 0.001},
]


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_a_seed_draws_the_same_tokens_as_with_everything_sorted(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)
    rows = [some_logits(random, 8000, 3.0) for _ in range(40)]
    quick = Sampler(seed=4, **options)
    got = [quick(row, [1, 2, 3]) for row in rows]
    monkeypatch.setattr(partial, "SORTED", ())
    monkeypatch.setattr("llmlite.sampling.sampler.nucleus", lambda logits, p: TopP(p=p)(ranked(logits)))
    plain = Sampler(seed=4, **options)
    assert got == [plain(row, [1, 2, 3]) for row in rows]
    assert str(quick._bits.state) == str(plain._bits.state)


def test_a_peaked_vocabulary_is_not_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(2).standard_normal(30_000).astype(np.float32)
    logits[:20] += 12
    monkeypatch.setattr(partial, "ranked", None)
    for options in ({"top_k": 0}, {"top_k": 0, "top_p": 1.0}):
        assert Sampler(seed=1, **options)(logits) < 30_000


def test_a_vocabulary_with_nothing_left_is_an_error_and_one_token_costs_no_random_number() -> None:
    logits = np.full(1000, -np.inf, dtype=np.float32)
    sampler = Sampler(seed=1, top_k=0, top_p=1.0, logit_bias={7: -np.inf})
    logits[7] = 0
    with pytest.raises(SamplingError, match="all tokens are forbidden"):
        sampler(logits)
    logits[9] = 0
    before = str(sampler._bits.state)
    assert sampler(logits) == 9
    assert str(sampler._bits.state) == before
