"""Train the bundled model for a few steps with TensorFlow's GradientTape; the loss must fall."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import tensorflow as tf

from llmlite import resources
from llmlite.bench.backends import tensorflow_forward
from llmlite.bench.backends.weights import floats, opened

STEPS, RATE = 20, 1e-4


class WithoutCache(tensorflow_forward.TensorFlowLlama):
    """The forward pass without a cache, because no gradient flows through the cache's variables."""

    def _remember(self, layer: int, k: Any, v: Any, position: Any) -> tuple[Any, Any]:
        return k, v


def run(ids: list[int]) -> dict[str, Any]:
    """Train for STEPS steps of Adam on the text `ids`; return the loss before and after, and the seconds."""
    tokens = tf.constant(ids, tf.int32)
    with opened(str(resources.model_path("tales"))) as (shape, tensors):
        weights = {name: tf.Variable(floats(tensor)) for name, tensor in tensors.items()}
    model = WithoutCache(weights, shape, len(ids))
    variables = list(weights.values())
    moments = [(tf.zeros_like(v), tf.zeros_like(v)) for v in variables]
    losses = []
    begin = perf_counter()
    for step in range(1, STEPS + 2):
        with tf.GradientTape() as tape:
            logits = model(tokens[:-1], tf.constant(0), tf.constant(len(ids) - 1))
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tokens[1:], logits=logits)
            )
        losses.append(float(loss))
        for i, (variable, gradient) in enumerate(zip(variables, tape.gradient(loss, variables))):
            gradient = tf.convert_to_tensor(gradient)  # the gradient of an embedding consists of slices
            first, second = (
                0.9 * moments[i][0] + 0.1 * gradient,
                0.999 * moments[i][1] + 0.001 * gradient**2,
            )
            moments[i] = first, second
            scaled = first / (1 - 0.9**step) / (tf.sqrt(second / (1 - 0.999**step)) + 1e-8)
            variable.assign_sub(RATE * scaled)
    return {
        "steps": STEPS,
        "loss_before": losses[0],
        "loss_after": losses[-1],
        "seconds": perf_counter() - begin,
    }
