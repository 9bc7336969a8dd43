"""The choice of the next token, step by step: which step cuts which tokens, and how even the rest is.

The steps are those of `llmlite.sampling`; nothing here chooses by rules of its own.
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
        name: of the step, with its setting: "top-k 40". off: the setting lets everything through.
        ids: int64 (N,) tokens still in the running, the likeliest first.
        probabilities: float64 (N,), they sum to 1.
        cut: int64 (M,) tokens that this step removed, the likeliest first.
        cut_share: the probability that they had together before the step.
    """

    name: str
    ids: np.ndarray
    probabilities: np.ndarray
    cut: np.ndarray
    cut_share: float
    off: bool = False

    @property
    def entropy(self) -> float:
        """The entropy of the choice, in bits; see the function."""
        return entropy(self.probabilities)


def stages(sampler: Sampler, logits: np.ndarray) -> list[Stage]:
    """Return the tokens that each step of a sampler's chain leaves, beginning with all; draw none.

    Args:
        logits: float (V,).

    Raises:
        SamplingError: logits among which nothing can be chosen.
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
    """Return each token's probability after a sampler's chain, float64 (V,): 0 for those that are cut."""
    steps = stages(sampler, logits)
    everyone = np.zeros(len(logits))
    everyone[steps[-1].ids] = steps[-1].probabilities
    return everyone


def cut_by(found: list[Stage]) -> dict[int, str]:
    """Return token -> name of the step that removed it, for all tokens that were cut."""
    return {int(token): stage.name for stage in found for token in stage.cut}


def entropy(probabilities: np.ndarray) -> float:
    """Return the entropy of a choice in bits, -Σ p log2 p: 0 if it is certain, b if it is even among 2**b."""
    p = np.asarray(probabilities, dtype=np.float64)
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum()) + 0.0  # not -0.0


def even_choice(probabilities: np.ndarray) -> float:
    """Return the number of tokens among which an even choice has the same entropy: 2 to its power."""
    return 2.0 ** entropy(probabilities)


def draws(sampler: Sampler, logits: np.ndarray, n: int) -> Counter[int]:
    """Return how often each token comes up when a sampler chooses n times from the same logits."""
    return Counter(sampler(logits) for _ in range(n))


def name_of(option: Option) -> str:
    """Return a step's name with its setting, as the command line spells them."""
    return option.label
