"""Show the contents of a GGUF file: header, metadata, tensors with types and sizes, one block's bytes."""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import llmlite
from llmlite.cli.files import bar, size
from llmlite.errors import LlmliteError
from llmlite.terminal import json_text, say

if TYPE_CHECKING:
    from llmlite.gguf import GGUFFile
    from llmlite.quants.tensor import QuantTensor

HELP = "show the contents of a GGUF file"
EXAMPLES = """\
examples:
  llmlite show model.gguf
  llmlite show tales:Q4_0                                           the bundled model in 4 bits
  llmlite show tales --tensor blk.0.attn_q.weight                   one tensor
  llmlite show tales:Q4_0 --tensor blk.0.attn_q.weight --block 0    one block: bytes, scale, weights
  llmlite show model.gguf --check                                   are all weights finite numbers?
  llmlite show model.gguf --json | jq '.metadata["general.name"]'

Shapes are rows x columns, the reverse of the file's order.
"""
FIRST = 6  # elements of an array shown
WIDEST = 90  # characters of a value shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="FILE", help='a GGUF file, or a name such as "tales:Q4_0"')
    parser.add_argument("--json", action="store_true", help="print everything as JSON, arrays whole")
    parser.add_argument("--tensor", metavar="NAME", help="show only this tensor")
    parser.add_argument(
        "--block", type=int, metavar="I", help="with --tensor: show this block's bytes, fields and weights"
    )
    parser.add_argument(
        "--check", action="store_true", help="look for NaN and infinity in all weights (reads the whole file)"
    )


def run(options: argparse.Namespace) -> int:
    if options.block is not None and options.tensor is None:
        raise LlmliteError("--block: say of which tensor, with --tensor NAME")
    if options.check and (options.json or options.tensor is not None):
        raise LlmliteError("--check: reads all tensors and prints a sentence; give no --json or --tensor")
    from llmlite import gguf, resources

    with gguf.read(resources.model_path(options.model)) as file:
        if options.check:
            check(file)
        elif options.tensor is not None:
            show_tensor(tensor_named(file, options.tensor), options.block, as_json=options.json)
        elif options.json:
            say(json_text(as_json(file)))
        else:
            show_file(file)
    return 0


def check(file: GGUFFile) -> None:
    """Print that all weights are finite. Otherwise the GGUFError names the one that isn't."""
    from llmlite import gguf

    with bar("check") as progress:
        gguf.check_weights(file, progress=progress)
    say(f"{file.path}: all weights of its {len(file.tensors)} tensors are finite")


def tensor_named(file: GGUFFile, name: str) -> QuantTensor:
    """Return the tensor. The error for an unknown name suggests the nearest existing names."""
    if name in file.tensors:
        return file.tensors[name]
    import difflib

    near = difflib.get_close_matches(name, list(file.tensors), n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise LlmliteError(f"{file.path}: no tensor {name!r} among its {len(file.tensors)}{hint}")


def show_file(file: GGUFFile) -> None:
    from llmlite.gguf.parse import shown  # keys and names are untrusted: no escape sequence may pass

    order = f"{file.byte_order}-endian"
    say(f"{file.path}: GGUF version {file.version}, {order}, {size(file.file_size)}")
    say(f"tensor data from byte {file.data_offset}, aligned to {file.alignment}\n")
    say(f"metadata: {len(file.metadata)}")
    width = max((len(shown(key)) for key in file.metadata), default=0)
    for key, value in file.metadata.items():
        say(f"  {shown(key):<{width}}  {file.metadata_type(key)!s:<10}  {shortened(value)}")
    tensors = file.tensors
    n_weights = sum(tensor.n_elements for tensor in tensors.values())
    n_bytes = sum(tensor.n_bytes for tensor in tensors.values())
    say(
        f"\ntensors: {len(tensors)}, {n_weights:,} weights, {size(n_bytes)}"
        + (f", {8 * n_bytes / n_weights:.2f} bits per weight" if n_weights else "")
    )
    width = max((len(shown(name)) for name in tensors), default=0)
    for name, tensor in tensors.items():
        say(
            f"  {shown(name):<{width}}  {tensor.type.name:<7}  {shape(tensor):>14}  {size(tensor.n_bytes):>9}"
            f"  {tensor.bits_per_weight:>7.4g} bits"
        )
    say()
    for type_name, (count, n) in by_type(tensors).items():
        say(f"  {type_name:<7} {count:>4} tensor{'' if count == 1 else 's'}  {size(n):>9}")


def by_type(tensors: Mapping[str, QuantTensor]) -> dict[str, tuple[int, int]]:
    """Return type name -> (number of tensors, bytes), the largest share first."""
    counts: Counter[str] = Counter()
    n_bytes: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[tensor.type.name] += 1
        n_bytes[tensor.type.name] += tensor.n_bytes
    return {name: (counts[name], n) for name, n in n_bytes.most_common()}


def show_tensor(tensor: QuantTensor, block: int | None, *, as_json: bool) -> None:
    if block is not None and not 0 <= block < len(tensor.blocks):
        raise LlmliteError(f"{tensor.name}: --block {block}: it has the blocks 0 to {len(tensor.blocks) - 1}")
    if as_json:
        record = tensor_record(tensor)
        if block is not None:
            record["block"] = block_record(tensor, block)
        say(json_text(record))
        return
    from llmlite.gguf.parse import shown

    kind = tensor.type
    say(
        f"{shown(tensor.name)}: {kind.name}, {shape(tensor)}, {size(tensor.n_bytes)}, {len(tensor.blocks)} "
        f"blocks of {kind.block_size} weights in {kind.type_size} bytes ({kind.bits_per_weight:g} bits per "
        "weight)"
    )
    if block is not None:
        row, column = divmod(block * kind.block_size, tensor.shape[-1] if tensor.shape else 1)
        say(f"block {block}: row {row}, from column {column}")
        say(tensor.block(block))


def as_json(file: GGUFFile) -> dict[str, Any]:
    """Return the whole description of a file as JSON values."""
    return {
        "llmlite": llmlite.__version__,
        "file": str(file.path),
        "file_size": file.file_size,
        "version": file.version,
        "byte_order": file.byte_order,
        "alignment": file.alignment,
        "data_offset": file.data_offset,
        "metadata": {key: plain(value) for key, value in file.metadata.items()},
        "metadata_types": {key: str(file.metadata_type(key)) for key in file.metadata},
        "tensors": [tensor_record(tensor) for tensor in file.tensors.values()],
    }


def tensor_record(tensor: QuantTensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "type": tensor.type.name,
        "shape": list(tensor.shape),
        "n_bytes": tensor.n_bytes,
        "bits_per_weight": tensor.bits_per_weight,
    }


def block_record(tensor: QuantTensor, i: int) -> dict[str, Any]:
    block = tensor.block(i)
    fields = {
        name: {"bit_offset": field.bit_offset, "n_bits": field.n_bits, "value": plain(field.value)}
        for name, field in block.fields.items()
    }
    return {
        "index": i,
        "bytes": bytes(block.bytes).hex(),
        "fields": fields,
        "scales": plain(block.scales),
        "minimums": plain(block.minimums),
        "weights": plain(block.weights),
    }


def plain(value: Any) -> Any:
    """Turn arrays, NumPy scalars and lazy sequences into JSON values; NaN and infinity become names."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def shortened(value: Any) -> str:
    """Return a value on one line, with the first elements of an array."""
    if isinstance(value, str):
        text = repr(value)
    elif hasattr(value, "__len__"):
        first = ", ".join(repr(plain(item)) for item in itertools.islice(value, FIRST))
        text = f"{len(value)}: {first}{', …' if len(value) > FIRST else ''}"
    else:
        text = str(value)
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def shape(tensor: QuantTensor) -> str:
    return " x ".join(str(n) for n in tensor.shape) or "one value"
