"""The choice of the next token, step by step: which step cuts which tokens, and how even the rest is.

The steps are those of `llmlite.sampling`. This module adds no rules of its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from llmlite.sampling import Option, Sampler, TopK


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The tokens that one step of the chain keeps, and those that it cuts.

    Attributes:
        name: the name of the step with its setting, such as "top-k 40".
        ids: int64 (N,): the ids of the tokens that are left after the step, the likeliest first.
        probabilities: float64 (N,): the probabilities of those tokens; their sum is 1.
        cut: int64 (M,): the ids of the tokens that the step removed, the likeliest first.
        cut_share: the sum of the removed tokens' probabilities before the step.
        off: whether the step's setting lets every token through.
    """

    name: str
    ids: np.ndarray
    probabilities: np.ndarray
    cut: np.ndarray
    cut_share: float
    off: bool = False

    @property
    def entropy(self) -> float:
        """The entropy of the choice in bits, as the function `entropy` computes it."""
        return entropy(self.probabilities)


def stages(sampler: Sampler, logits: np.ndarray) -> list[Stage]:
    """Return the tokens that are left after each step of a sampler's chain, without drawing one.

    Args:
        sampler: the sampler whose chain is applied.
        logits: float (V,): the scores of all tokens.

    Returns:
        One stage for each step, after a first stage that has all tokens.

    Raises:
        SamplingError: no token can be chosen from these logits.
    """
    everything = Sampler(chain=[TopK(k=0)]).steps(logits)[0]
    ids, probabilities = everything.ids, everything.probabilities
    found = [
        Stage(name="all tokens", ids=ids, probabilities=probabilities, cut=ids[:0], cut_share=0.0, off=True)
    ]
    for step in sampler.steps(logits):
        gone = ~np.isin(ids, step.ids)
        found.append(
            Stage(
                name=name_of(step.option),
                ids=step.ids,
                probabilities=step.probabilities,
                cut=ids[gone],
                cut_share=float(probabilities[gone].sum()),
                off=step.option.off,
            )
        )
        ids, probabilities = step.ids, step.probabilities
    return found


def probabilities(sampler: Sampler, logits: np.ndarray) -> np.ndarray:
    """Return each token's probability after a sampler's chain.

    Args:
        sampler: the sampler whose chain is applied.
        logits: float (V,): the scores of all tokens.

    Returns:
        float64 (V,): the probabilities; 0 for tokens that were cut.

    Raises:
        SamplingError: no token can be chosen from these logits.
    """
    steps = stages(sampler, logits)
    everyone = np.zeros(len(logits))
    everyone[steps[-1].ids] = steps[-1].probabilities
    return everyone


def cut_by(found: list[Stage]) -> dict[int, str]:
    """Return which step removed each token: token id -> name of the step, only for tokens that were cut.

    Args:
        found: the result of `stages`.
    """
    return {int(token): stage.name for stage in found for token in stage.cut}


def entropy(probabilities: np.ndarray) -> float:
    """Return the entropy of a choice in bits: -Σ p log2 p.

    It is 0 if the choice is certain, and b if the choice is even among 2**b tokens.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum()) + 0.0  # not -0.0


def even_choice(probabilities: np.ndarray) -> float:
    """Return the number of tokens among which an even choice has the same entropy: 2**entropy."""
    return 2.0 ** entropy(probabilities)


def draws(sampler: Sampler, logits: np.ndarray, n: int) -> Counter[int]:
    """Return how often each token comes up when a sampler chooses n times from the same logits."""
    return Counter(sampler(logits) for _ in range(n))


def name_of(option: Option) -> str:
    """Return a step's name with its setting, as the command line spells them."""
    return option.label
