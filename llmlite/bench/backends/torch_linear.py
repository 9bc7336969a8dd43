"""PyTorch's quantized matrices: int8 with dynamically quantized activations, and int4 in packed groups.

Both take an (N, K) matrix and return a callable that maps (T, K) to (T, N), in float32 for int8 and in
bfloat16 for int4. The int4 kernel is vectorized only for bfloat16: float32 took fifty times as long (torch
2.13, AVX-512).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch

from llmlite.bench.backends.weights import floats
from llmlite.quants.tensor import QuantTensor

GROUP = 32  # weights that share a scale: the block of Q4_0 and Q4_1, and the smallest group of the kernel
INNER_K_TILES = 1  # of the packed layout; required by the operator's signature but ignored by the CPU kernel
Linear = Callable[[torch.Tensor], torch.Tensor]


def int8(tensor: QuantTensor, bias: torch.Tensor | None) -> Linear:
    """Quantize a matrix with `quantize_dynamic`: int8 weights with a scale per row, int8 activations.

    The activations are quantized at each call.

    Args:
        tensor: (N, K).
        bias: (N,) or None.
    """
    weight = torch.from_numpy(floats(tensor))
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = torch.nn.Parameter(bias, requires_grad=False)
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it has no successor for eager models yet
        holder = torch.nn.Sequential(linear)
        return quantize_dynamic(holder, {torch.nn.Linear: per_channel_dynamic_qconfig})[0]


class Int4:
    """A matrix of packed 4-bit groups for `_weight_int4pack_mm_for_cpu`.

    The operator computes w = (q - 8) * scale + zero with one scale and one zero per group of 32. In Q4_0,
    w = (q - 8) * d; in Q4_1, w = q * d + m. So both keep the file's own codes, with scales and zeros rounded
    to bfloat16. Other types are quantized anew, between the minimum and the maximum of each group.

    Args:
        tensor: (N, K), K a multiple of 32.
        bias: (N,) or None.
    """

    def __init__(self, tensor: QuantTensor, bias: torch.Tensor | None) -> None:
        self.own = tensor.type.name not in ("Q4_0", "Q4_1")
        codes, scales, zeros = (_quantize if self.own else _of_file)(tensor)
        n_rows = tensor.shape[0]
        packed = torch.from_numpy(codes.reshape(n_rows, -1).astype(np.int32))  # (N, K)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(packed, INNER_K_TILES)
        pairs = torch.from_numpy(np.stack((scales, zeros), -1).astype(np.float32))  # (N, K/32, 2)
        self.scales = pairs.transpose(0, 1).contiguous().to(torch.bfloat16)
        self.bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(x.contiguous(), self.packed, GROUP, self.scales)
        return out if self.bias is None else out + self.bias


def fits_int4(tensor: QuantTensor) -> bool:
    """Return whether the packed kernel accepts a matrix of this shape."""
    return len(tensor.shape) == 2 and tensor.shape[1] % GROUP == 0 and tensor.shape[0] % 16 == 0


def _of_file(tensor: QuantTensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes (N, K/32, 32) from 0 to 15, scales and zeros (N, K/32), which give the file's own weights.

    Each block stores its scale d, and in Q4_1 also its minimum m; in Q4_0, m = -8 * d. The codes are
    calculated in float64 from the dequantized weights w, because w - m is a multiple of d for both types.
    """
    weights = floats(tensor).reshape(tensor.shape[0], -1, GROUP)
    blocks = np.asarray(tensor.blocks).reshape(*weights.shape[:2], -1)  # (N, K/32, bytes)
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0].astype(np.float32)
    if tensor.type.name == "Q4_1":
        least = np.ascontiguousarray(blocks[..., 2:4]).view(np.float16)[..., 0].astype(np.float32)
    else:
        least = -8 * scales
    safe = np.where(scales == 0, 1, scales).astype(np.float64)
    codes = np.rint((weights.astype(np.float64) - least[..., None]) / safe[..., None])
    return np.clip(codes, 0, 15), scales, least + 8 * scales


def _quantize(tensor: QuantTensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weights = floats(tensor).reshape(tensor.shape[0], -1, GROUP)
    least, greatest = weights.min(-1), weights.max(-1)
    scales = (greatest - least) / 15
    safe = np.where(scales == 0, 1, scales)
    codes = np.clip(np.rint((weights - least[..., None]) / safe[..., None]), 0, 15)
    return codes, scales, least + 8 * scales
