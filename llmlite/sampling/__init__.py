"""From logits to the next token: a chain of small steps that can be inspected one by one.

    sampler = Sampler(temperature=0.8, top_k=40, top_p=0.95, repeat_penalty=1.1, seed=1)
    token = sampler(logits, ids)               # logits: float32 (V,); ids: the sequence so far
    for step in sampler.steps(logits, ids):    # the tokens that each step kept, with probabilities
        print(step.option.label, step.ids, step.probabilities)

A sampler belongs to one sequence: it has the random state and mirostat's state. `sampler.fresh(seed)` makes a
sampler for another sequence.

Two samplers with the same options and seed draw the same tokens from the same series of logits and tokens on
every machine: NumPy guarantees the stream of PCG64, and probabilities come from `llmlite.deterministic`. The
logits may differ in their last bits between executors and machines; then a draw close to an edge may differ.
"""

from llmlite.sampling.candidates import Adjustment, Candidates, Context, Option
from llmlite.sampling.cuts import XTC, Greedy, MinP, TopK, TopNSigma, TopP, Typical
from llmlite.sampling.history import (
    DRY_BREAKERS,
    Dry,
    LogitBias,
    LogitsProcessor,
    Penalties,
    Processor,
    sequence_breakers,
)
from llmlite.sampling.sampler import MaskSource, Sampler, SamplerStep
from llmlite.sampling.scores import log_probabilities, log_probabilities_of
from llmlite.sampling.temperature import DynamicTemperature, Mirostat, Temperature

__all__ = [
    "DRY_BREAKERS",
    "XTC",
    "Adjustment",
    "Candidates",
    "Context",
    "Dry",
    "DynamicTemperature",
    "Greedy",
    "LogitBias",
    "LogitsProcessor",
    "MaskSource",
    "MinP",
    "Mirostat",
    "Option",
    "Penalties",
    "Processor",
    "Sampler",
    "SamplerStep",
    "Temperature",
    "TopK",
    "TopNSigma",
    "TopP",
    "Typical",
    "log_probabilities",
    "log_probabilities_of",
    "sequence_breakers",
]
