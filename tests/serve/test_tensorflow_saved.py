"""The SavedModel of tales, loaded by TensorFlow Hub, generates llmlite's tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_hub_loads_a_signature_that_generates_our_tokens(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed (extra tfhub)")
    hub = pytest.importorskip("tensorflow_hub", reason="TensorFlow Hub is not installed (extra tfhub)")
    import llmlite as ll
    from llmlite import resources
    from llmlite.bench.backends.tensorflow_saved import save

    save(str(resources.model_path("tales")), tmp_path / "saved", n_ctx=64)
    model = ll.load("tales", n_ctx=64)
    ids = model.tokenizer.encode("The fox", add_eos=False)
    made = model.stream("The fox", max_tokens=12, temperature=0)
    assert "".join(made)
    generate = hub.load(str(tmp_path / "saved")).signatures["generate"]
    for _ in range(2):  # nothing is left in the cache
        found = generate(input_ids=tf.constant(ids, tf.int32), max_tokens=tf.constant(12))
        assert found["output_ids"].numpy().tolist() == list(made.ids)
    with pytest.raises(tf.errors.InvalidArgumentError, match="context"):
        generate(input_ids=tf.constant(ids, tf.int32), max_tokens=tf.constant(64))
    assert "hub.load" in (tmp_path / "saved" / "README.md").read_text()
