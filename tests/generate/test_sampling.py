"""Sampling: what each step keeps, against transformers' warpers; draws against their probabilities."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from llmlite.errors import SamplingError
from llmlite.sampling import Candidates, Greedy, MinP, Option, Sampler, Temperature, TopK, TopP
from llmlite.sampling.candidates import ranked

RANDOM = np.random.default_rng(0)


def random_logits(n_vocab: int, spread: float = 3.0) -> np.ndarray:
    return (RANDOM.standard_normal(n_vocab) * spread).astype(np.float32)


def kept_by(option: Option, logits: np.ndarray) -> set[int]:
    return set(Sampler(chain=[option]).steps(logits)[0].ids.tolist())


def kept_by_transformers(warper_name: str, argument: float, logits: np.ndarray) -> set[int]:
    """The ids that the warper of transformers leaves above -inf."""
    torch = pytest.importorskip("torch", reason="torch is the oracle here")
    process = pytest.importorskip(
        "transformers.generation.logits_process", reason="transformers is the oracle"
    )
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    left = getattr(process, warper_name)(argument)(None, scores)[0].numpy()
    return set(np.flatnonzero(left > -np.inf).tolist())


@pytest.mark.parametrize("k", [1, 2, 40, 999, 5000])
def test_top_k_keeps_what_transformers_keeps(k: int) -> None:
    for _ in range(20):
        logits = random_logits(1000)
        assert kept_by(TopK(k=k), logits) == kept_by_transformers("TopKLogitsWarper", k, logits)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.9, 0.95, 0.999])
def test_top_p_keeps_what_transformers_keeps(p: float) -> None:
    for _ in range(20):
        logits = random_logits(1000)
        assert kept_by(TopP(p=p), logits) == kept_by_transformers("TopPLogitsWarper", p, logits)


@pytest.mark.parametrize("p", [0.001, 0.05, 0.3, 1.0])
def test_min_p_keeps_what_transformers_keeps(p: float) -> None:
    for _ in range(20):
        logits = random_logits(1000)
        assert kept_by(MinP(p=p), logits) == kept_by_transformers("MinPLogitsWarper", p, logits)


def test_the_whole_chain_gives_transformers_probabilities() -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    for _ in range(20):
        logits = random_logits(500)
        scores = torch.from_numpy(logits.astype(np.float64))[None]
        for warper in (
            process.TopKLogitsWarper(40),
            process.TopPLogitsWarper(0.9),
            process.MinPLogitsWarper(0.05),
            process.TemperatureLogitsWarper(0.7),
        ):
            scores = warper(None, scores)
        expected = torch.softmax(scores, -1)[0].numpy()
        last = Sampler(top_k=40, top_p=0.9, min_p=0.05, temperature=0.7).steps(logits)[-1]
        ours = np.zeros(500)
        ours[last.ids] = last.probabilities
        np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_steps_come_in_the_order_of_llama_cpp() -> None:
    steps = Sampler(temperature=0.5, top_k=10, top_p=0.9, min_p=0.1).steps(random_logits(100))
    assert [type(step.option) for step in steps] == [TopK, TopP, MinP, Temperature]
    sizes = [len(step.ids) for step in steps]
    assert sizes == sorted(sizes, reverse=True)
    for step in steps:
        assert step.probabilities.sum() == pytest.approx(1)
        assert (np.diff(step.probabilities) <= 0).all()


def test_draws_follow_the_probabilities() -> None:
    """Chi-square over 20,000 draws: the 99.9th percentile for 7 degrees of freedom is 24.3."""
    logits = random_logits(50)
    sampler = Sampler(temperature=1.3, top_k=8, top_p=1, seed=5)
    last = sampler.steps(logits)[-1]
    n_draws = 20_000
    counts = np.bincount([sampler(logits) for _ in range(n_draws)], minlength=50)
    expected = last.probabilities * n_draws
    assert counts.sum() == counts[last.ids].sum(), "something outside the kept tokens was drawn"
    assert ((counts[last.ids] - expected) ** 2 / expected).sum() < 24.3


def test_the_same_seed_draws_the_same_tokens() -> None:
    rows = [random_logits(200) for _ in range(50)]

    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(seed=seed, temperature=1.5)
        return [sampler(row) for row in rows]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert draws(None) != draws(None)


def test_the_draws_of_a_seed_stay_the_same_for_ever() -> None:
    sampler = Sampler(seed=42, temperature=1, top_k=0, top_p=1)
    logits = np.linspace(-2, 2, 10, dtype=np.float32)
    assert [sampler(logits) for _ in range(12)] == PINNED


PINNED = [6, 8, 5, 7, 9, 2, 6, 6, 9, 8, 8, 4]


def test_looking_at_the_steps_spends_no_randomness() -> None:
    logits = random_logits(100)
    plain, watched = Sampler(seed=1), Sampler(seed=1)
    for _ in range(20):
        watched.steps(logits)
        assert plain(logits) == watched(logits)


def test_temperature_zero_is_greedy() -> None:
    for _ in range(20):
        logits = random_logits(300)
        best = int(np.argmax(logits))
        assert Sampler(temperature=0)(logits) == best
        assert Sampler(chain=[Greedy()])(logits) == best
        assert Sampler(chain=[Temperature(t=0)])(logits) == best
        assert Sampler(temperature=1, top_k=1)(logits) == best


def test_a_tiny_temperature_neither_overflows_nor_strays() -> None:
    logits = np.array([1e4, -1e4, 9999], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        assert Sampler(temperature=1e-300, top_k=0, top_p=1, seed=0)(logits) == 0


def test_ties_go_to_the_lower_id() -> None:
    logits = np.zeros(10, dtype=np.float32)
    assert Sampler(temperature=0)(logits) == 0
    assert Sampler(chain=[TopK(k=3)]).steps(logits)[0].ids.tolist() == [0, 1, 2]
    logits[[4, 7]] = 1
    assert Sampler(chain=[TopK(k=3)]).steps(logits)[0].ids.tolist() == [4, 7, 0]


def test_sorting_only_the_top_k_gives_the_same_as_sorting_all() -> None:
    for _ in range(50):
        logits = np.round(random_logits(400)).astype(np.float32)  # many ties
        sampler = Sampler(top_k=17)
        np.testing.assert_array_equal(sampler.steps(logits)[0].ids, ranked(logits).first(17).ids)


def test_options_that_are_off_keep_everything() -> None:
    logits = random_logits(100)
    for step in Sampler(temperature=1, top_k=0, top_p=1, min_p=0).steps(logits):
        assert len(step.ids) == 100


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = np.full(20, -np.inf, dtype=np.float32)
    logits[[3, 11]] = [0.0, 1.0]
    for top_k in (0, 1, 5, 40):
        sampler = Sampler(seed=0, temperature=2, top_k=top_k, top_p=1)
        assert {sampler(logits) for _ in range(50)} <= {3, 11}
        assert not math.isnan(sampler.steps(logits)[-1].probabilities.sum())


@pytest.mark.parametrize("sampler", [Sampler(temperature=0), Sampler(), Sampler(top_k=0)], ids=str)
@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (np.array([0, np.nan, 1], dtype=np.float32), r"logits\[1\] is NaN"),
        (np.array([np.nan, np.inf], dtype=np.float32), r"logits\[0\] is NaN"),
        (np.array([0, np.inf], dtype=np.float32), r"logits\[1\] is infinite"),
        (np.full(4, -np.inf, dtype=np.float32), "all tokens are forbidden"),
        (np.zeros((2, 2), dtype=np.float32), r"shape \(V,\), got float32 \(2, 2\)"),
        (np.zeros(0, dtype=np.float32), r"got float32 \(0,\)"),
        (np.arange(3), "expected floats"),
    ],
)
def test_logits_without_a_choice_are_refused(sampler: Sampler, logits: np.ndarray, words: str) -> None:
    with pytest.raises(SamplingError, match=words):
        sampler(logits)
    with pytest.raises(SamplingError, match=words):
        sampler.steps(logits)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"temperature": 0, "top_k": -1}, "top_k"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": -0.1}, "top_p"),
        ({"min_p": math.nan}, "min_p"),
        ({"min_p": 2}, "min_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Sampler(**options)  # type: ignore[arg-type]


def test_options_are_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TopP(p=0.5).p = 0.6  # type: ignore[misc]
    with pytest.raises(TypeError):
        TopK(40)  # type: ignore[misc]


def test_options_do_not_change_their_input() -> None:
    ids, logits = np.arange(5), np.array([5.0, 4, 3, 2, 1])
    candidates = Candidates(ids.copy(), logits.copy())
    for option in (Greedy(), TopK(k=2), TopP(p=0.5), MinP(p=0.5), Temperature(t=0.5)):
        option(candidates)
    np.testing.assert_array_equal(candidates.ids, ids)
    np.testing.assert_array_equal(candidates.logits, logits)
