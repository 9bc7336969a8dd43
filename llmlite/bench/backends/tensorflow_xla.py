"""TensorFlow compiled by XLA, as a module in memory or as a SavedModel that TensorFlow Hub loads.

XLA compiles for fixed shapes: once for a single step, and once for each length of prompt. Therefore attention
covers the whole static cache and masks the part that isn't filled yet.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from llmlite.bench.backends import tensorflow_forward
from llmlite.bench.backends.weights import cached, floats, opened, refuse


def make(*, hub: bool = False) -> XlaBackend:
    """Return the backend.

    Args:
        hub: export the module as a SavedModel and load it with hub.load.
    """
    return XlaBackend(hub)


class FixedLlama(tensorflow_forward.TensorFlowLlama):
    """The same forward pass on shapes that don't change."""

    def _remember(self, layer: int, k: Any, v: Any, position: Any) -> tuple[Any, Any]:
        place = tf.stack([0, position, 0])
        for cache, new in ((self.keys[layer], k), (self.values[layer], v)):
            cache.assign(gen_xla_ops.xla_dynamic_update_slice(cache, new, place))
        return self.keys[layer].read_value(), self.values[layer].read_value()


class XlaModule(tf.Module):
    """The exported module: two compiled functions over the weights and the cache."""

    def __init__(self, llama: FixedLlama) -> None:
        super().__init__()
        # a SavedModel contains everything that can be reached from here
        self.keys, self.values, self.weights = llama.keys, llama.values, list(llama.weights.values())
        self.llama = llama
        signature = [tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32)]
        self.last = tf.function(self._last, jit_compile=True, input_signature=signature)
        self.all = tf.function(self._all, jit_compile=True, input_signature=signature)

    def _last(self, ids: Any, position: Any) -> Any:
        """Return the last position's logits, (1, V)."""
        return self.llama.head(self.llama.layers(ids, position)[-1:])

    def _all(self, ids: Any, position: Any) -> Any:
        """Return every position's logits, (T, V)."""
        return self.llama.head(self.llama.layers(ids, position))


class XlaBackend:
    """A backend with one XlaModule, or with its export loaded by TensorFlow Hub."""

    def __init__(self, hub: bool) -> None:
        self.hub = hub
        self.model: Any = None
        self.position = self.n_threads = 0

    def start(self) -> None:
        """Import TensorFlow Hub if it is used; everything else is imported already."""
        if self.hub:
            import tensorflow_hub  # noqa: F401 - imported now, so that its time counts as import

    def convert(self, path: str, n_ctx: int) -> bool:
        tensorflow_forward.set_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # as load will
        return self.hub and _saved(path, n_ctx)[1]

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        if self.model is None:
            tensorflow_forward.set_threads(n_threads)
        self.model, self.n_threads = None, tf.config.threading.get_intra_op_parallelism_threads()
        if not self.hub:
            self.model = _module(path, n_ctx)
            return
        import tensorflow_hub

        self.model = tensorflow_hub.load(_saved(path, n_ctx)[0])

    def compile(self, lengths: Sequence[int]) -> bool:
        """Compile a single step and each length of prompt."""
        for length in sorted({1, *lengths}):
            self._run(self.model.last, [0] * length, 0)
        return True

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        return self._run(self.model.all, ids, 0)

    def prefill(self, ids: Sequence[int]) -> int:
        return int(self._run(self.model.last, ids, 0)[0].argmax())

    def step(self, token: int) -> int:
        return int(self._run(self.model.last, [token], self.position)[0].argmax())

    def _run(self, function: Any, ids: Sequence[int], position: int) -> np.ndarray:
        logits = function(tf.constant(list(ids), tf.int32), tf.constant(position, tf.int32)).numpy()
        self.position = position + len(ids)
        return logits

    def about(self) -> dict[str, Any]:
        note = "XLA (jit_compile); attention over the whole static cache"
        return {
            "n_threads": self.n_threads,
            "type_k": "f32",
            "version": tf.__version__,
            "isa": "XLA compiles for this processor",
            "note": f"{note}; a SavedModel loaded by hub.load" if self.hub else note,
        }


def _saved(path: str, n_ctx: int) -> tuple[str, bool]:
    """Return the folder of the model as a SavedModel, and whether it was made now."""
    return cached(path, f"tensorflow-{n_ctx}", lambda part: tf.saved_model.save(_module(path, n_ctx), part))


def _module(path: str, n_ctx: int) -> XlaModule:
    with opened(path) as (shape, tensors):
        refuse(shape, "TensorFlow", tensorflow_forward.ARCHITECTURES)
        # variables, not constants: a SavedModel stores them outside the graph, which can't exceed 2 GB
        weights = {name: tf.Variable(floats(tensor), trainable=False) for name, tensor in tensors.items()}
    return XlaModule(FixedLlama(weights, shape, n_ctx))
