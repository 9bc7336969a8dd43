"""Weights that are not finite: both executors end in the same error, which says where it was seen first."""

from __future__ import annotations

import numpy as np
import pytest

import llmlite as ll
from llmlite.bench.quality import perplexity
from llmlite.description.config import ModelConfig
from llmlite.description.weights import Weights
from llmlite.engine.eager import EagerExecutor
from llmlite.engine.kv_cache import KVCache
from llmlite.engine.planned import PlannedExecutor
from llmlite.errors import NumericsError
from llmlite.quants.tensor import QuantTensor
from tests.support.tiny_models import tiny_model

EXECUTORS = pytest.mark.parametrize("executor_class", [EagerExecutor, PlannedExecutor])
VALUES = pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
# a tensor -> its layer, and the results that may be the first that an executor looks at
PLACES = {
    "blk.1.attn_norm.weight": (1, {"attn_norm"}),
    "blk.1.ffn_norm.weight": (1, {"ffn_norm"}),
    "blk.1.attn_q.weight": (1, {"Qcur", "kqv_out"}),
    "blk.1.attn_v.weight": (1, {"Vcur", "kqv_out"}),
    "blk.1.ffn_up.weight": (1, {"ffn_up", "ffn_swiglu"}),
    "blk.1.ffn_down.weight": (1, {"ffn_out", "l_out"}),
    "output_norm.weight": (None, {"result_norm"}),
    "output.weight": (None, {"result_output"}),
    "token_embd.weight": (None, {"embd"}),
}
IDS = [5, 6, 7, 8, 9, 10]


def damaged(name: str, value: float, type_name: str = "Q8_0") -> dict[str, QuantTensor]:
    """The tensors of a model with `value` in a gain of a norm, or in the scale of a matrix's rows 6 to 9."""
    tensors = tiny_model(n_layer=3).tensors(type_name)
    tensor = tensors[name]
    if tensor.type.name == "F32":
        array = tensor.dequantize().copy()
        array[..., 3] = value
        tensors[name] = QuantTensor(
            name, tensor.type, tensor.shape, array.view(np.uint8).reshape(tensor.blocks.shape)
        )
        return tensors
    fields = tensor.blocks.copy().view(tensor.type.layout).reshape(tensor.shape[0], -1)
    fields["d"][6:10] = value
    blocks = np.ascontiguousarray(fields).view(np.uint8).reshape(tensor.blocks.shape)
    tensors[name] = QuantTensor(name, tensor.type, tensor.shape, blocks)
    return tensors


@EXECUTORS
@VALUES
@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("n", [1, 6])
def test_the_error_names_the_operation_and_layer_that_saw_it_first(
    executor_class: type, name: str, value: float, n: int
) -> None:
    tensors = damaged(name, value)
    config = ModelConfig.from_metadata(tiny_model(n_layer=3).metadata, tensors)
    executor = executor_class(Weights.from_tensors(tensors, config), config)
    cache = KVCache(config, 16)
    with pytest.raises(NumericsError, match="holds a number that is not finite") as caught:
        executor(IDS[-n:] if n > 1 else [6], cache, n_outputs=1)
    layer, operations = PLACES[name]
    assert caught.value.layer == layer
    assert caught.value.operation in operations
    assert cache.ids == []  # nothing was read


@EXECUTORS
@pytest.mark.parametrize("name", [name for name in PLACES if "norm" in name])
def test_gains_of_a_float_model_are_seen_in_their_layer_too(executor_class: type, name: str) -> None:
    tensors = damaged(name, np.nan, "F32")
    config = ModelConfig.from_metadata(tiny_model(n_layer=3).metadata, tensors)
    executor = executor_class(Weights.from_tensors(tensors, config), config)
    with pytest.raises(NumericsError) as caught:
        executor(IDS, KVCache(config, 16), n_outputs=6)
    assert caught.value.layer == PLACES[name][0]


@pytest.mark.parametrize("executor", ["eager", "planned"])
@pytest.mark.parametrize("name", ["blk.1.attn_norm.weight", "blk.1.ffn_up.weight", "output.weight"])
def test_perplexity_generate_and_logits_end_with_it(executor: str, name: str, tmp_path) -> None:
    tensors = damaged(name, np.nan)
    ll.gguf.write(tmp_path / "bad.gguf", tiny_model(n_layer=3).metadata, tensors)
    model = ll.load(tmp_path / "bad.gguf", executor=executor)
    with pytest.raises(NumericsError):
        perplexity(model.logits, list(range(64)), n_ctx=16)
    with pytest.raises(NumericsError):
        model.logits(IDS)
    with pytest.raises(NumericsError):
        model.generate(IDS, max_tokens=3)
