"""ONNX Runtime GenAI on the file's own blocks: its generator runs a graph that is written here.

Its own model builder isn't used, because it needs PyTorch and Transformers (5.7 GB) and quantizes the weights
anew. The graph here has the operators that the builder writes for int4 on a CPU: MatMulNBits with int8
activations, GroupQueryAttention with its rotary embedding, and SkipSimplifiedLayerNormalization. Q4_0 and
Q8_0 blocks become the operator's blocks code by code and keep their values. Matrices of other types are
quantized anew, the output matrix to Q8_0 and the others to Q4_0.

Sources: onnxruntime's ContribOperators.md (MatMulNBits, GroupQueryAttention); the builder's
genai_config.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from llmlite.bench.backends.weights import Shape, cached, floats, opened, refuse
from llmlite.quants.tensor import QuantTensor

ARCHITECTURES = ("llama",)
BITS = {"Q4_0": 4, "Q8_0": 8}  # types whose blocks MatMulNBits can store exactly
BLOCK = 32
FLOAT, INT32, INT64, UINT8 = 1, 6, 7, 2  # onnx.TensorProto.DataType
CONTEXT = 512  # the rotary tables' length is a multiple of this, so that runs of similar length share a graph
ABOUT = "about.json"


def make() -> OrtGenaiBackend:
    """Return the backend."""
    return OrtGenaiBackend()


class OrtGenaiBackend:
    """A backend with one onnxruntime_genai.Generator, which is rewound for each prompt."""

    def __init__(self) -> None:
        self.generator: Any = None
        self.n_threads = 0
        self.anew: list[str] = []

    def start(self) -> None:
        import onnxruntime_genai

        self.library = onnxruntime_genai

    def convert(self, path: str, n_ctx: int) -> bool:
        return _converted(path, n_ctx)[1]

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        self.generator = None
        folder, _ = _converted(path, n_ctx)
        spins = os.environ.get("OMP_WAIT_POLICY") != "passive"  # its own threads wait like OpenMP's
        session: dict[str, Any] = {
            "intra_op_num_threads": n_threads,
            "inter_op_num_threads": 1,
            "session.intra_op.allow_spinning": "1" if spins else "0",
        }
        og = self.library
        config = og.Config(folder)
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self.model = og.Model(config)
        params = og.GeneratorParams(self.model)
        params.set_search_options(max_length=n_ctx, min_length=0, do_sample=False, batch_size=1)
        self.generator = og.Generator(self.model, params)
        self.n_threads = n_threads
        self.anew = json.loads((Path(folder) / ABOUT).read_text())["quantized_anew"]

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        # The graph returns only the last position's logits, so tokens are read one at a time.
        self.generator.rewind_to(0)
        return np.stack([self._read([token]) for token in ids])

    def prefill(self, ids: Sequence[int]) -> int:
        self.generator.rewind_to(0)
        return int(self._read(ids).argmax())

    def step(self, token: int) -> int:
        return int(self._read([token]).argmax())

    def _read(self, ids: Sequence[int]) -> np.ndarray:
        """Read tokens and return the logits (V,) after the last one.

        The generator's own search isn't used, because it would stop at an end token.
        """
        self.generator.append_tokens(np.array(ids, np.int32))
        return np.array(self.generator.get_logits(), np.float32).reshape(-1)

    def about(self) -> dict[str, Any]:
        note = "a graph with the operators of its model builder, embeddings as float32"
        if self.anew:
            note += f"; requantized: {', '.join(self.anew)}"
        return {
            "n_threads": self.n_threads,
            "type_k": "f32",
            "version": self.library.__version__,
            "isa": "chosen at run time, not reported",
            "own_quantization": bool(self.anew),
            "note": note,
        }


def _converted(path: str, n_ctx: int) -> tuple[str, bool]:
    n_positions = -(-n_ctx // CONTEXT) * CONTEXT
    return cached(path, f"ort-genai-{n_positions}", lambda part: _convert(path, part, n_positions))


def _convert(path: str, folder: str, n_positions: int) -> None:
    """Write model.onnx, model.onnx.data with its weights, and genai_config.json into a new folder."""
    import onnx

    with opened(path) as (shape, tensors):
        refuse(shape, "ONNX Runtime GenAI", ARCHITECTURES)
        graph = _Graph(shape, tensors)
        graph.build(n_positions)
    model = onnx.helper.make_model(
        graph.finished(),
        opset_imports=[onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    Path(folder).mkdir()
    onnx.save_model(
        model,
        str(Path(folder) / "model.onnx"),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=1024,
    )
    (Path(folder) / "genai_config.json").write_text(json.dumps(_config(shape, n_positions)))
    (Path(folder) / ABOUT).write_text(json.dumps({"quantized_anew": sorted(graph.anew)}))


def _config(shape: Shape, n_positions: int) -> dict[str, Any]:
    """Return the generator's configuration for a graph."""
    inputs = {
        "input_ids": "input_ids",
        "attention_mask": "attention_mask",
        "past_key_names": "past_key_values.%d.key",
        "past_value_names": "past_key_values.%d.value",
    }
    outputs = {
        "logits": "logits",
        "present_key_names": "present.%d.key",
        "present_value_names": "present.%d.value",
    }
    decoder = {
        "session_options": {"provider_options": []},
        "filename": "model.onnx",
        "head_size": shape.head_size,
        "hidden_size": shape.n_embd,
        "inputs": inputs,
        "outputs": outputs,
        "num_attention_heads": shape.n_head,
        "num_hidden_layers": shape.n_layer,
        "num_key_value_heads": shape.n_head_kv,
    }
    model = {
        "type": "llama",
        "context_length": n_positions,
        "vocab_size": shape.n_vocab,
        "decoder": decoder,
        "bos_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 0,
    }
    search = {"do_sample": False, "max_length": n_positions, "past_present_share_buffer": True}
    return {"model": model, "search": search}


def packed(tensor: QuantTensor) -> tuple[np.ndarray, np.ndarray]:
    """Return Q4_0 or Q8_0 weights in MatMulNBits's layout: codes uint8 (N, blocks, bytes), scales float32.

    The operator computes a weight as scale * (code - 2^(bits-1)). Two codes of 4 bits share a byte, with the
    earlier one in the lower half. A byte of Q4_0 holds elements i and i + 16 instead.
    """
    blocks = np.ascontiguousarray(tensor.blocks).reshape(tensor.shape[0], -1, tensor.type.type_size)
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0].astype(np.float32)
    codes = blocks[..., 2:]
    if tensor.type.name == "Q8_0":
        return codes ^ 0x80, scales  # int8 q as q + 128
    values = np.concatenate([codes & 15, codes >> 4], axis=-1)  # (N, blocks, 32), in order
    return values[..., ::2] | values[..., 1::2] << 4, scales


class _Graph:
    """The nodes and weights of one model, in the order in which they are added."""

    def __init__(self, shape: Shape, tensors: Mapping[str, QuantTensor]) -> None:
        self.shape, self.tensors = shape, tensors
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.anew: set[str] = set()  # types that were quantized anew
        self._numbers = count()

    def node(
        self, op: str, inputs: Sequence[str], *, n: int = 1, ours: bool = True, **attributes: Any
    ) -> Any:
        """Add a node and return the name of its output, or a list of names if `n` is above 1.

        Args:
            op: the operator.
            inputs: names of its inputs; "" for one that is left out.
            n: number of outputs.
            ours: whether the operator is one of com.microsoft, not of ONNX itself.
            attributes: its attributes.
        """
        from onnx import helper

        names = [f"{op}_{next(self._numbers)}" for _ in range(n)]
        domain = "com.microsoft" if ours else ""
        self.nodes.append(
            helper.make_node(op, list(inputs), names, name=names[0], domain=domain, **attributes)
        )
        return names[0] if n == 1 else names

    def weight(self, array: np.ndarray, name: str) -> str:
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def value(self, name: str, kind: int, dims: Sequence[Any]) -> Any:
        from onnx import helper

        return helper.make_tensor_value_info(name, kind, dims)

    def stored(self, name: str) -> QuantTensor:
        """Return a matrix in a type of MatMulNBits; quantize it anew if the file has another type."""
        tensor = self.tensors[name]
        if tensor.type.name in BITS:
            return tensor
        self.anew.add(tensor.type.name)
        wanted = "Q8_0" if name in ("output.weight", "token_embd.weight") else "Q4_0"
        return QuantTensor.quantize(floats(tensor), wanted, name)

    def product(self, x: str, *names: str) -> str:
        """Multiply `x` by one matrix or several stacked ones of the same type; return the output's name."""
        found = [self.stored(name) for name in names]
        parts = [packed(tensor) for tensor in found]
        label = names[0].removesuffix(".weight")
        codes = self.weight(np.concatenate([p[0] for p in parts]), f"{label}.codes")
        scales = self.weight(np.concatenate([p[1] for p in parts]), f"{label}.scales")
        return self.node(
            "MatMulNBits",
            [x, codes, scales],
            K=found[0].shape[1],
            N=sum(tensor.shape[0] for tensor in found),
            bits=BITS[found[0].type.name],
            block_size=BLOCK,
            accuracy_level=4,  # int8 activations
        )

    def build(self, n_positions: int) -> None:
        """Add all nodes from the token ids to the last position's logits."""
        shape = self.shape
        freqs = self.tensors.get("rope_freqs.weight")
        angles = shape.angles(n_positions, None if freqs is None else floats(freqs))
        tables = [
            self.weight(np.cos(angles).astype(np.float32), "cos"),
            self.weight(np.sin(angles).astype(np.float32), "sin"),
        ]
        self.inputs += [
            self.value("input_ids", INT64, ("batch", "tokens")),
            self.value("attention_mask", INT64, ("batch", "all")),
        ]
        lengths = self._lengths()
        table = self.weight(floats(self.tensors["token_embd.weight"]), "embeddings")
        x = self.node("Gather", [table, "input_ids"], ours=False, axis=0)
        branch = ""  # the output that the previous layer adds to x
        for layer in range(shape.n_layer):
            normed, x = self._norm(x, branch, f"blk.{layer}.attn_norm.weight")
            branch = self._attention(normed, layer, lengths, tables)
            normed, x = self._norm(x, branch, f"blk.{layer}.ffn_norm.weight")
            branch = self._feed_forward(normed, layer)
        normed, _ = self._norm(x, branch, "output_norm.weight")
        last = self.weight(np.array([-1], np.int64), "last")
        normed = self.node("Gather", [normed, last], ours=False, axis=1)
        head = "output.weight" if "output.weight" in self.tensors else "token_embd.weight"
        logits = self.product(normed, head)
        self.nodes[-1].output[0] = "logits"
        assert logits.startswith("MatMulNBits")
        self.outputs.insert(0, self.value("logits", FLOAT, ("batch", 1, shape.n_vocab)))

    def _lengths(self) -> list[str]:
        """Return the lengths that attention needs, int32: each sequence's tokens minus one, and the total."""
        axis = self.weight(np.array([1], np.int64), "axis")
        one = self.weight(np.array([1], np.int64), "one")
        total = self.node("ReduceSum", ["attention_mask", axis], ours=False, keepdims=0)
        less = self.node("Sub", [total, one], ours=False)
        shape = self.node("Shape", ["attention_mask"], ours=False)
        index = self.weight(np.array(1, np.int64), "index")
        n_all = self.node("Gather", [shape, index], ours=False, axis=0)
        return [self.node("Cast", [each], ours=False, to=INT32) for each in (less, n_all)]

    def _norm(self, x: str, branch: str, name: str) -> tuple[str, str]:
        """Return the names of the normed sum of x and a branch, and of the sum itself."""
        gain = self.weight(floats(self.tensors[name]), name)
        if not branch:
            options: dict[str, Any] = {"axis": -1, "epsilon": self.shape.rms_eps, "stash_type": 1}
            return self.node("SimplifiedLayerNormalization", [x, gain], ours=False, **options), x
        outputs = self.node(
            "SkipSimplifiedLayerNormalization", [x, branch, gain], n=4, epsilon=self.shape.rms_eps
        )
        self.nodes[-1].output[1] = self.nodes[-1].output[2] = ""  # mean and deviation: not needed
        return outputs[0], outputs[3]

    def _attention(self, x: str, layer: int, lengths: Sequence[str], tables: Sequence[str]) -> str:
        shape = self.shape
        names = [f"blk.{layer}.attn_{part}.weight" for part in "qkv"]
        if len({self.stored(name).type.name for name in names}) == 1:
            projected = [self.product(x, *names), "", ""]
        else:
            projected = [self.product(x, name) for name in names]
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        present = [f"present.{layer}.{part}" for part in ("key", "value")]
        for names_, places, length in ((past, self.inputs, "past"), (present, self.outputs, "all")):
            dims = ("batch", shape.n_head_kv, length, shape.head_size)
            places += [self.value(name, FLOAT, dims) for name in names_]
        outputs = self.node(
            "GroupQueryAttention",
            [*projected, *past, *lengths, *tables],
            n=3,
            num_heads=shape.n_head,
            kv_num_heads=shape.n_head_kv,
            scale=shape.head_size**-0.5,
            do_rotary=1,
            rotary_interleaved=int(shape.rope_pairs == "norm"),
        )
        self.nodes[-1].output[1:] = present
        return self.product(outputs[0], f"blk.{layer}.attn_output.weight")

    def _feed_forward(self, x: str, layer: int) -> str:
        gate = self.product(x, f"blk.{layer}.ffn_gate.weight")
        up = self.product(x, f"blk.{layer}.ffn_up.weight")
        sigmoid = self.node("Sigmoid", [gate], ours=False)
        silu = self.node("Mul", [gate, sigmoid], ours=False)
        return self.product(self.node("Mul", [silu, up], ours=False), f"blk.{layer}.ffn_down.weight")

    def finished(self) -> Any:
        from onnx import helper

        return helper.make_graph(self.nodes, "llama", self.inputs, self.outputs, self.weights)
