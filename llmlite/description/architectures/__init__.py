"""The architectures, with one entry for each.

A file's hyper-parameters and tensors determine most of a model: biases, tied embeddings, RoPE factors. An
entry has only the facts that a file doesn't have.
"""

from __future__ import annotations

from llmlite.description.architectures.decoders import DECODERS
from llmlite.description.architectures.encoders import ENCODERS
from llmlite.description.architectures.entry import (
    EXPERTS,
    FUSED,
    HEAD_NORMS,
    NORMS,
    Architecture,
    Names,
    Windows,
)
from llmlite.description.architectures.gemma4 import GEMMA4_DECODERS
from llmlite.description.architectures.hybrids import HYBRID_DECODERS
from llmlite.description.architectures.latent import LATENT_DECODERS
from llmlite.description.architectures.mixtures import MIXTURE_DECODERS
from llmlite.description.architectures.recurrent import RECURRENT_DECODERS
from llmlite.errors import ModelError, UnsupportedError

ARCHITECTURES: dict[str, Architecture] = {
    entry.name: entry
    for group in (
        *(DECODERS, MIXTURE_DECODERS, GEMMA4_DECODERS, LATENT_DECODERS, RECURRENT_DECODERS, HYBRID_DECODERS),
        ENCODERS,
    )
    for entry in group
}

NO_DECODERS = {  # other values of general.architecture in GGUF files, with a description
    "clip": "a vision tower or projector; load the file of the text model that it belongs to",
    "t5": "an encoder-decoder",
    "t5encoder": "the encoder of an encoder-decoder",
    "wavtokenizer-dec": "a decoder of audio",
    "rwkv6": "RWKV's time mix has no mixer here",
    "rwkv6qwen2": "RWKV's time mix has no mixer here",
    "rwkv7": "RWKV's time mix has no mixer here",
    "arwkv7": "RWKV's time mix has no mixer here",
    "dream": "a diffusion model",
    "llada": "a diffusion model",
    "llada-moe": "a diffusion model",
    "rnd1": "a diffusion model",
}

__all__ = [
    "ARCHITECTURES", "EXPERTS", "FUSED", "HEAD_NORMS", "NORMS", "Architecture", "Names", "Windows",
    "by_class", "by_name",
]  # fmt: skip


def by_name(name: object) -> Architecture:
    """Return the entry for a value of `general.architecture`.

    Raises:
        ModelError: the value isn't a string.
        UnsupportedError: no entry has that name. The error lists the known ones.
    """
    if not isinstance(name, str):
        raise ModelError.at("general.architecture", "a string", repr(name))
    if name not in ARCHITECTURES:
        kind = f" ({NO_DECODERS[name]})" if name in NO_DECODERS else ""
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedError.about(
            "general.architecture",
            f"{name!r}{kind} is not supported; supported are {known}",
            expected=f"one of {known}",
            got=name,
        )
    return ARCHITECTURES[name]


def by_class(name: object) -> Architecture:
    """Return the entry for a class of transformers, under its name in config.json.

    Raises:
        UnsupportedError: no entry has that class. The error lists the known ones.
    """
    for entry in ARCHITECTURES.values():
        if name in entry.classes:
            return entry
    known = ", ".join(known for entry in ARCHITECTURES.values() for known in entry.classes)
    raise UnsupportedError.about("architectures", f"{name!r:.80} is not supported; supported are {known}")
