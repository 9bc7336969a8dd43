"""Make caches for mixers that a test chooses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from llmlite.description.layers import Layer, ShortConvolution
from llmlite.engine.kv_cache import KVCache

CONVOLUTION = ShortConvolution(width=64, n_taps=4)


def cache_of(*mixers: Any, **options: Any) -> KVCache:
    layers = tuple(Layer(mixer=mixer, feed_forward=None) for mixer in mixers)
    return KVCache(SimpleNamespace(layers=layers), 512, **options)  # type: ignore[arg-type]
