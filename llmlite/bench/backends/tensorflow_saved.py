"""A SavedModel that generates text, for TensorFlow Hub and other programs that load SavedModels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from llmlite.bench.backends import tensorflow_forward
from llmlite.bench.backends.weights import floats, opened, refuse

README = """\
# A language model as a SavedModel

    import tensorflow as tf, tensorflow_hub as hub
    generate = hub.load("FOLDER").signatures["generate"]
    found = generate(input_ids=tf.constant([1, 2, 3]), max_tokens=tf.constant(20))
    found["output_ids"]

input_ids is the prompt, int32 (T,). It generates greedily: always the most probable token. Prompt and answer
share {n_ctx} positions. Make one call at a time, because the cache is part of the model. The tokenizer isn't;
use llmlite's.

## How to publish it

1. Read the license of the model's weights: it must allow you to pass them on. Put its text beside this file.
2. On a web server of your own: pack the contents of the folder, not the folder itself, and give the address.

       tar czf model.tar.gz -C FOLDER .
       hub.load("https://example.com/model.tar.gz")

3. Or on kaggle.com/models, the successor of tfhub.dev (with a Kaggle account, `pip install kagglehub`):

       kagglehub.login()
       kagglehub.model_upload("OWNER/MODEL/tensorFlow2/VARIATION", "FOLDER", license_name="LICENSE")
       hub.load("https://www.kaggle.com/models/OWNER/MODEL/TensorFlow2/VARIATION/1")
"""


class Generating(tf.Module):
    """The exported module; a SavedModel keeps everything that is reachable from it."""

    def __init__(self, llama: tensorflow_forward.TensorFlowLlama, n_ctx: int) -> None:
        super().__init__()
        self.keys, self.values, self.weights = llama.keys, llama.values, list(llama.weights.values())
        self.llama, self.n_ctx = llama, n_ctx
        prompt = tf.TensorSpec([None], tf.int32, name="input_ids")
        limit = tf.TensorSpec([], tf.int32, name="max_tokens")
        self.generate = tf.function(self._generate, input_signature=[prompt, limit])

    def _generate(self, input_ids: Any, max_tokens: Any) -> dict[str, Any]:
        """Return output_ids, int32 (n,): the most probable tokens after input_ids (T,)."""
        n = tf.shape(input_ids)[0]
        tf.debugging.assert_positive(n, "input_ids: empty")
        tf.debugging.assert_less_equal(n + max_tokens, self.n_ctx, "longer than the context")

        def best(logits: Any) -> Any:
            return tf.argmax(logits, -1, output_type=tf.int32)

        def step(i: Any, token: Any, made: Any) -> Any:
            made = tf.concat((made, token), 0)
            return i + 1, best(self.llama(token, n + i, 1)), made

        start = (tf.constant(0), best(self.llama(input_ids, 0, 1)), tf.zeros([0], tf.int32))
        shapes = (tf.TensorShape([]), tf.TensorShape([1]), tf.TensorShape([None]))
        _, _, made = tf.while_loop(
            lambda i, *_: i < max_tokens, step, start, shape_invariants=shapes, parallel_iterations=1
        )
        return {"output_ids": made}


def save(path: str, folder: Path, *, n_ctx: int = 256) -> None:
    """Write a GGUF file as a SavedModel, with a README on how to publish it.

    Args:
        path: the GGUF file.
        folder: the folder to write.
        n_ctx: positions that a prompt and its answer share.

    Raises:
        UnsupportedError: this forward pass doesn't run the model.
    """
    with opened(path) as (shape, tensors):
        refuse(shape, "TensorFlow", tensorflow_forward.ARCHITECTURES)
        weights = {name: tf.Variable(floats(tensor), trainable=False) for name, tensor in tensors.items()}
    module = Generating(tensorflow_forward.TensorFlowLlama(weights, shape, n_ctx), n_ctx)
    tf.saved_model.save(module, str(folder), signatures={"generate": module.generate})
    (folder / "README.md").write_text(README.format(n_ctx=n_ctx), encoding="utf-8")
