"""Each step against probabilities made by hand; the sequence and the random state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite.errors import SamplingError
from llmlite.sampling import (
    XTC,
    Candidates,
    Context,
    Dry,
    DynamicTemperature,
    LogitBias,
    MinP,
    Mirostat,
    Option,
    Penalties,
    Processor,
    Sampler,
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    Typical,
    log_probabilities,
    log_probabilities_of,
    sequence_breakers,
)

RANDOM = np.random.default_rng(3)
HALVES = np.log(np.array([0.5, 0.25, 0.125, 0.0625, 0.0625]))


def last(option: Option, logits: np.ndarray, ids: Any = ()) -> dict[int, float]:
    step = Sampler(chain=[option], seed=0).steps(logits, ids)[-1]
    return dict(zip(step.ids.tolist(), step.probabilities.tolist()))


def test_a_bias_is_added_and_minus_infinity_forbids() -> None:
    found = last(LogitBias(biases={1: math.log(2), 0: -math.inf}), HALVES)
    assert found == pytest.approx({1: 2 / 3, 2: 1 / 6, 3: 1 / 12, 4: 1 / 12})
    with pytest.raises(SamplingError, match="token 5, expected 0 to 4"):
        Sampler(logit_bias={5: 1.0})(HALVES)


def test_penalties_divide_what_is_positive_multiply_the_rest_and_count() -> None:
    logits = np.array([2.0, -1.0, 3.0, 0.5])
    option = Penalties(repeat=2, frequency=0.25, presence=0.5, last_n=4)
    changed = option.adjust(logits.copy(), None, Context(ids=[2, 0, 0, 1, 3]))  # the 2 is too long ago
    np.testing.assert_allclose(changed, [2 / 2 - 2 * 0.25 - 0.5, -2 - 0.75, 3.0, 0.25 - 0.75])


def test_dry_punishes_what_would_continue_a_repetition() -> None:
    ids = [7, 1, 2, 3, 9, 1, 2, 3]
    option = Dry(multiplier=1, base=2, allowed_length=2)
    changed = option.adjust(np.zeros(10), None, Context(ids=ids))
    expected = np.zeros(10)
    expected[9] = -(1 * 2.0 ** (3 - 2))  # 1 2 3 came before, and 9 after it
    np.testing.assert_array_equal(changed, expected)


def test_nothing_is_repeated_across_a_breaker() -> None:
    ids = [7, 1, 2, 3, 9, 1, 2, 3]
    for breakers, penalty in ((((2,),), 0.0), (((8, 2),), 2.0), (((1, 2),), 0.0), (((9,),), 0.0)):
        option = Dry(multiplier=1, base=2, allowed_length=2, breakers=breakers)
        assert -option.adjust(np.zeros(10), None, Context(ids=ids))[9] == penalty, breakers


def test_a_long_repetition_is_found_in_bounded_time_and_its_penalty_is_finite() -> None:
    changed = Dry(multiplier=1).adjust(np.zeros(3), None, Context(ids=[1] * 20_000))
    assert np.isfinite(changed).all() and changed[1] < -1e37


def test_top_n_sigma_counts_from_the_highest() -> None:
    logits = np.array([4.0, 3.0, 2.0, 1.0, 0.0])  # sigma is the root of 2
    assert set(last(TopNSigma(n=1), logits)) == {0, 1}
    assert set(last(TopNSigma(n=2), logits)) == {0, 1, 2}


def test_typical_prefers_average_surprise_to_the_likeliest() -> None:
    """Entropy 1.875 bits: the token of 2 bits is nearest, then that of 1 bit (0.875), then 3 bits (1.125)."""
    assert set(last(Typical(p=0.2), HALVES)) == {1}
    assert set(last(Typical(p=0.7), HALVES)) == {0, 1}
    assert set(last(Typical(p=0.8), HALVES)) == {0, 1, 2}


def test_xtc_takes_all_top_choices_but_the_last() -> None:
    assert set(last(XTC(probability=1, threshold=0.1), HALVES)) == {2, 3, 4}
    assert set(last(XTC(probability=0, threshold=0.1), HALVES)) == set(range(5))
    assert set(last(XTC(probability=1, threshold=0.3), HALVES)) == set(range(5)), "one top choice stays"


def test_xtc_happens_as_often_as_asked_and_steps_foretell_it() -> None:
    sampler = Sampler(chain=[XTC(probability=0.3, threshold=0.1)], seed=1)
    n_fewer = 0
    for _ in range(1000):
        kept = sampler.steps(HALVES)[-1].ids
        n_fewer += len(kept) == 3
        assert sampler(HALVES) in kept
    assert 230 < n_fewer < 370


def test_dynamic_temperature_is_between_its_ends_by_entropy() -> None:
    even, sure = np.zeros(8), np.array([0.0] + [-800.0] * 7)
    for logits, t in ((even, 1.5), (sure, 0.5)):
        found = DynamicTemperature(t=1, range=0.5)(Candidates(np.arange(8), logits))
        np.testing.assert_allclose(found.logits, (logits - logits[0])[: len(found.logits)] / t)


def test_mirostat_2_cuts_what_is_more_surprising_than_mu_and_learns() -> None:
    context = Context(state={"mu": 2.5})
    option = Mirostat(version=2, tau=2, eta=0.5)
    candidates = Candidates(np.arange(5), HALVES)
    assert option(candidates, context).ids.tolist() == [0, 1]
    option.observe(0.125, context)  # 3 bits, one too many
    assert context.state["mu"] == pytest.approx(2.0)


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_keeps_the_mean_surprise_near_its_target(version: int) -> None:
    logits = -1.1 * np.log(np.arange(1, 5001))
    whole = log_probabilities(logits)
    sampler = Sampler(mirostat=version, mirostat_tau=3.0, mirostat_eta=0.1, temperature=1, seed=4)
    surprise = [-whole[sampler(logits)] / math.log(2) for _ in range(1500)]
    assert np.mean(surprise[500:]) == pytest.approx(3.0 + 1.0, abs=1.6)  # of the cut ones, 3; of all, more
    assert isinstance(sampler.chain[-1], Mirostat)


def test_mirostat_must_be_the_last_step() -> None:
    with pytest.raises(ValueError, match="last step"):
        Sampler(chain=[Mirostat(version=2), TopK(k=3)])


def test_a_processor_gets_the_sequence_and_all_logits() -> None:
    seen: list[Any] = []

    def only_even(ids: Any, logits: np.ndarray) -> np.ndarray:
        seen.append((list(ids), logits.shape))
        logits[1::2] = -np.inf
        return logits

    assert Sampler(processors=[only_even], temperature=0)(np.array([0.0, 9.0, 1.0]), [5, 6]) == 2
    assert seen == [([5, 6], (3,))]
    late = Sampler(chain=[TopK(k=2), Processor(function=only_even)])
    assert late.steps(np.array([0.0, 9.0, 1.0]))[-1].ids.tolist() == [2]


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (np.zeros(2), "shape"),
        (np.array([np.nan, 0, 0]), "NaN"),
        (None, "shape"),
        (np.zeros(3, int), "floats"),
    ],
)
def test_a_processor_that_returns_something_else_is_named(returned: Any, words: str) -> None:
    def broken(ids: Any, logits: np.ndarray) -> Any:
        return returned

    with pytest.raises(SamplingError, match=f"processor broken.*{words}"):
        Sampler(processors=[broken])(np.zeros(3))


def test_the_whole_chain_comes_in_llama_cpps_order() -> None:
    sampler = Sampler(
        processors=[lambda ids, logits: logits], logit_bias={1: 1.0}, repeat_penalty=1.1, dry_multiplier=0.8,
        top_n_sigma=3, typical_p=0.9, min_p=0.05, xtc_probability=0.5, dynatemp_range=0.2,
    )  # fmt: skip
    assert [type(option) for option in sampler.chain] == [
        Processor, LogitBias, Penalties, Dry, TopNSigma, TopK, Typical, TopP, MinP, XTC, DynamicTemperature,
    ]  # fmt: skip
    labels = [step.option.label for step in sampler.explain(RANDOM.standard_normal(300), [1, 2, 1, 2])]
    assert labels[1:4] == ["logit bias of 1", "penalties 1.1/0/0 over 64", "dry 0.8, 1.75 from 2"]


ADJUSTMENTS: list[Option] = [
    LogitBias(biases={3: 2.0, 90: -1.0}),
    Penalties(repeat=1.3, frequency=0.2, presence=0.1),
    Dry(multiplier=2, allowed_length=1),
    TopNSigma(n=1.2),
    MinP(p=0.02),
    Temperature(t=0.7),
    Processor(function=lambda ids, logits: logits * 0.5),
]


@pytest.mark.parametrize("option", ADJUSTMENTS, ids=lambda option: option.label)
def test_an_unsorted_vocabulary_gives_what_sorted_candidates_give(option: Option) -> None:
    logits, ids = RANDOM.standard_normal(400).astype(np.float32), [3, 3, 90, 3, 7, 90, 3]
    fast = Sampler(chain=[option, TopK(k=50)]).steps(logits, ids)[-1]
    order = np.argsort(-logits, kind="stable")
    plain = option(Candidates(order, logits[order].astype(np.float64)), Context(ids=ids, n_vocab=400)).first(
        50
    )
    np.testing.assert_array_equal(fast.ids, plain.ids)
    np.testing.assert_allclose(fast.probabilities, plain.probabilities, rtol=1e-12)


def test_fresh_shares_nothing_and_a_copy_draws_on() -> None:
    logits = RANDOM.standard_normal(200)
    sampler = Sampler(mirostat=2, seed=5)
    first = [sampler(logits) for _ in range(20)]
    again, copied = sampler.fresh(5), sampler.copy()
    assert [again(logits) for _ in range(20)] == first
    assert [copied(logits) for _ in range(20)] == [sampler(logits) for _ in range(20)]
    with pytest.raises(ValueError, match="seed"):
        sampler.fresh(-1)


def test_a_mask_leaves_only_what_it_allows() -> None:
    logits, mask = np.arange(6.0), np.array([True, False, True, False, False, False])
    assert {Sampler(seed=n)(logits, mask=mask) for n in range(30)} <= {0, 2}
    with pytest.raises(SamplingError, match="forbids every token"):
        Sampler()(logits, mask=np.zeros(6, bool))
    with pytest.raises(SamplingError, match="mask: expected bool"):
        Sampler()(logits, mask=np.ones(5, bool))


def test_log_probabilities_are_exact() -> None:
    logits = RANDOM.standard_normal((4, 300)).astype(np.float32) * 9
    exact = [
        [x - math.log(math.fsum(math.exp(y) for y in row)) for x in row]
        for row in logits.astype(float).tolist()
    ]
    found = log_probabilities(logits)
    np.testing.assert_allclose(found, exact, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(
        log_probabilities_of(logits, [3, 0, 299, 7]), found[np.arange(4), [3, 0, 299, 7]]
    )
    assert log_probabilities(np.array([-np.inf, 0.0]))[0] == -np.inf
    with pytest.raises(SamplingError, match="row 1"):
        log_probabilities(np.array([[0.0], [np.nan]]))
    with pytest.raises(SamplingError, match="ids"):
        log_probabilities_of(logits, [0, 0, 0, 300])


def test_breakers_are_the_tokens_that_hold_the_text(tales: Any) -> None:
    tokenizer = ll.load(tales, executor="eager").tokenizer
    found = sequence_breakers(tokenizer, ["\n"])
    assert found and all(len(one) == 1 and b"\n" in tokenizer.piece(one[0]) for one in found)
    rest = [one for one in sequence_breakers(tokenizer, ["was the"]) if len(one) > 1]
    assert rest and all("was the" in tokenizer.decode(one) for one in rest)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"repeat_last_n": -2}, "repeat_last_n"),
        ({"frequency_penalty": math.nan}, "frequency_penalty"),
        ({"dry_base": 0.5}, "dry_base"),
        ({"dry_breakers": [()]}, "dry_breakers"),
        ({"typical_p": 2}, "typical_p"),
        ({"xtc_threshold": -1}, "xtc_threshold"),
        ({"mirostat": 3}, "mirostat"),
        ({"top_n_sigma": math.inf}, "top_n_sigma"),
        ({"dynatemp_range": -1}, "dynatemp_range"),
        ({"logit_bias": {1: math.nan}}, "logit_bias"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"processors": [3]}, "processor"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Sampler(**options)
