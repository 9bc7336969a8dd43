"""Quantize a whole GGUF file: plan each tensor's new type, then write the new file.

from llmlite.quantize import plan, quantize_file
for row in plan("model-f16.gguf", "Q4_K_M"):
    print(row.name, row.source.name, "->", row.target.name, row.n_bytes)
quantize_file("model-f16.gguf", "model-q4_k_m.gguf", "Q4_K_M")
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np

from llmlite import gguf
from llmlite.errors import ModelError, UnsupportedError
from llmlite.quantize.mixes import FILE_TYPES, assign, canonical, kind_of
from llmlite.quants import QuantType
from llmlite.quants.search import compiled_searches
from llmlite.quants.tensor import PendingTensor, QuantTensor, check_importance, importance_parts
from llmlite.terminal import NamedProgress

COMPILED_FROM = 20_000_000  # weights: fewer take less time than importing the compiler
UNQUANTIZED = ("F32", "F16", "BF16")
QUANTIZATION_VERSION = 2  # `general.quantization_version`: the block layouts GGML uses since 2023
Overrides = Sequence[tuple[str, str]]
Imatrix = Mapping[str, np.ndarray]


class PlanRow(NamedTuple):
    """The change of one tensor.

    Attributes:
        name: the tensor's name.
        source, target: its type before and after.
        n_bytes: its size afterwards.
    """

    name: str
    source: QuantType
    target: QuantType
    n_bytes: int


def plan(
    source: str | os.PathLike[str] | gguf.GGUFFile,
    file_type: str,
    *,
    pure: bool = False,
    overrides: Overrides = (),
    imatrix: Imatrix | None = None,
    requantize: bool = False,
) -> list[PlanRow]:
    """Determine every tensor's new type and size, without quantizing anything.

    Args:
        source: a GGUF file, or its path.
        file_type: a mix under llama-quantize's name: "Q8_0", "Q4_K_M", "Q2_K", ... ("Q4_K" means "Q4_K_M").
            The output matrix, or the embedding if it is also the output, keeps more bits than the rest: Q6_K
            in most mixes.
        pure: give every weight the mix's main type, including output and embedding.
        overrides: (regular expression, type) pairs. The first match decides. If its type doesn't fit the
            row's width, the type's fallback is used.
        imatrix: see `quantize_file`.
        requantize: accept weights that are already quantized. The new rounding error is added to the old one.

    Returns:
        A row for each tensor, in file order.

    Raises:
        UnsupportedError: a type is unknown or requires an importance matrix, or a weight is already quantized
            and `requantize` is False.
        ModelError: the importance matrix is for another model, or has NaN, infinity or negative numbers.

    Warns:
        UserWarning: some tensors of the importance matrix aren't in this model, or some weights of layers
            aren't in the importance matrix.
    """
    if not isinstance(source, gguf.GGUFFile):
        with gguf.read(source) as file:
            return plan(
                file, file_type, pure=pure, overrides=overrides, imatrix=imatrix, requantize=requantize
            )
    targets = assign(
        source.metadata,
        source.tensors,
        file_type,
        pure=pure,
        overrides=overrides,
        has_importance=imatrix is not None,
    )
    if imatrix is not None:
        changed = [name for name, tensor in source.tensors.items() if targets[name] is not tensor.type]
        _check_imatrix(imatrix, source, changed)
    rows = []
    for name, tensor in source.tensors.items():
        target = targets[name]
        if target is not tensor.type:
            _check(name, tensor, target, canonical(file_type), imatrix, requantize)
        rows.append(
            PlanRow(name, tensor.type, target, tensor.n_elements // target.block_size * target.type_size)
        )
    return rows


def quantize_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    file_type: str,
    *,
    pure: bool = False,
    overrides: Overrides = (),
    imatrix: Imatrix | str | os.PathLike[str] | None = None,
    requantize: bool = False,
    n_threads: int | None = None,
    progress: NamedProgress | None = None,
    allow_nan: bool = False,
) -> list[PlanRow]:
    """Quantize a GGUF file. The new file appears only when it is complete.

    Args:
        source: path of the file to quantize.
        target: path of the new file.
        file_type, pure, overrides, requantize: see `plan`.
        imatrix: tensor name -> importance (n_columns,) or (n_experts, n_columns) float32, or the path of an
            importance-matrix file. Tensors without an entry, or with only zeros, are quantized without it.
        n_threads: number of threads; None for one per core that this process may use. The result doesn't
            depend on it.
        progress: called as progress(bytes_done, bytes_total, tensor_name), with bytes of the source.
        allow_nan: accept a weight that is NaN, infinite, or too large for its new type. It ruins its block.

    Returns:
        The plan that was followed.

    Raises:
        GGUFError: the source is malformed.
        ModelError: a weight isn't finite or is too large, and `allow_nan` is False. The error names its
            tensor, row and column.
        OSError: a file can't be read or written.
        The errors of `plan`.
    """
    importances = read_imatrix(imatrix) if isinstance(imatrix, (str, os.PathLike)) else imatrix
    with gguf.read(source) as file, file.located():
        rows = plan(
            file, file_type, pure=pure, overrides=overrides, imatrix=importances, requantize=requantize
        )
        total = sum(tensor.n_bytes for tensor in file.tensors.values())
        done = 0

        def converted(row: PlanRow) -> np.ndarray:
            nonlocal done
            tensor = file.tensors[row.name]
            blocks = tensor.blocks
            if row.target is not tensor.type:
                importance = None if importances is None else importances.get(row.name)
                threads = n_threads or _cores()
                blocks = QuantTensor.quantize(
                    tensor, row.target.name, row.name, importance, n_threads=threads, allow_nan=allow_nan
                ).blocks
            done += tensor.n_bytes
            if progress is not None:
                progress(done, total, row.name)
            return blocks

        pending = {
            row.name: PendingTensor(
                row.name, row.target, file.tensors[row.name].shape, partial(converted, row)
            )
            for row in rows
        }
        n_weights = sum(tensor.n_elements for tensor in file.tensors.values())
        with compiled_searches() if n_weights >= COMPILED_FROM else nullcontext():
            gguf.write(target, _metadata(file, canonical(file_type)), pending, alignment=file.alignment)
    return rows


def read_imatrix(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read an importance matrix in llama.cpp's GGUF form.

    For each weight, the file has `NAME.in_sum2` (n_matrices, n_columns), the sums of squared activations, and
    `NAME.counts`, the number of summands.

    Args:
        path: path of the file.

    Returns:
        Tensor name -> mean squares, float32: (n_columns,) for a matrix, (n_experts, n_columns) for experts.

    Raises:
        GGUFError: the file isn't an importance matrix, or has no counts.
        ModelError: a sum or a count isn't finite or is below 0; the error names its tensor.
        OSError: the file can't be read.
    """
    found = {}
    with gguf.read(path) as file, file.located():
        for name, sums in file.tensors.items():
            if not name.endswith(".in_sum2"):
                continue
            weight = name.removesuffix(".in_sum2")
            total = sums.dequantize().reshape(-1, sums.n_columns)
            counts = _counts(file, weight, len(total))
            check_importance(total, name, "the sum")
            # an expert that no token reached has no sums, so all its columns count equally
            means = np.where(counts > 0, total / np.maximum(counts, 1), np.float32(1)).astype(np.float32)
            found[weight] = means[0] if len(means) == 1 else means
    if not found:
        raise gguf.GGUFError(
            path, "tensors", None, "some that end in .in_sum2", "none", "this is not an importance matrix"
        )
    return found


def _counts(file: gguf.GGUFFile, weight: str, n_matrices: int) -> np.ndarray:
    """Return the number of summed activations for each matrix of a weight: (n_matrices, 1) float32."""
    name = f"{weight}.counts"
    tensor = file.tensors.get(name)
    if tensor is None or tensor.n_elements != n_matrices:
        expected = f"{n_matrices} numbers, one for each row of {weight}.in_sum2"
        got = "no such tensor" if tensor is None else tensor.n_elements
        raise gguf.GGUFError(file.path, name, None, expected, got, "measure the importance matrix again")
    counts = tensor.dequantize().reshape(-1, 1)
    check_importance(counts, name, "the count")
    return counts


def _check_imatrix(imatrix: Imatrix, source: gguf.GGUFFile, changed: Sequence[str]) -> None:
    """Check an importance matrix for the tensors that will change, and warn if it doesn't cover them."""
    foreign = [name for name in imatrix if name not in source.tensors]
    if len(foreign) == len(imatrix):
        example = f", {foreign[0]!r:.80} for example" if foreign else ""
        raise ModelError(
            f"the importance matrix is for another model: none of its {len(foreign)} tensors is in this one"
            + example
        )
    if foreign:
        warnings.warn(
            f"{len(foreign)} of the importance matrix's {len(imatrix)} tensors aren't in this model "
            f"({foreign[0]!r:.80} for example): is it for another one?",
            stacklevel=3,
        )
    for name in changed:
        if name in imatrix:
            importance_parts(imatrix[name], source.tensors[name].shape, name)
    bare = [name for name in changed if name.startswith("blk.") and name not in imatrix]
    if bare:
        warnings.warn(
            f"{len(bare)} of the {len(changed)} tensors to be quantized aren't in the importance matrix "
            f"({bare[0]} for example): they are quantized without it",
            stacklevel=3,
        )


def _check(
    name: str, tensor: QuantTensor, target: QuantType, mix: str, imatrix: Imatrix | None, requantize: bool
) -> None:
    if target.encode is None:
        raise UnsupportedError(f"{name}: {target.name} has no quantizer")
    if tensor.type.block_size > 1 and not requantize:
        raise UnsupportedError(
            f"{name} is {tensor.type.name} already, and quantizing twice adds both errors: "
            "start from the F16 or F32 file, or confirm it with requantize"
        )
    needy = target.needs_importance or (target.name == "Q2_K" and mix == "Q2_K_S")
    given = imatrix is not None and name in imatrix and bool(np.any(imatrix[name]))
    if needy and not given and kind_of(name) not in ("embedding", "output"):
        raise UnsupportedError(
            f"{name}: {target.name} has too few bits to be quantized without an importance matrix; give one"
        )


def _metadata(file: gguf.GGUFFile, mix: str) -> dict[str, object]:
    kept = {key: value for key, value in file.metadata.typed().items() if not key.startswith("split.")}
    return {
        **kept,
        "general.quantization_version": np.uint32(QUANTIZATION_VERSION),
        "general.file_type": np.uint32(FILE_TYPES[mix][0]),
    }


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
