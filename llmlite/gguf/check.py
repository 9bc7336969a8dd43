"""Search a file's weights for NaN and infinity, which reading alone doesn't reveal."""

from __future__ import annotations

import numpy as np

from llmlite.errors import GGUFError
from llmlite.gguf.file import GGUFFile
from llmlite.gguf.parse import shown
from llmlite.system import guard
from llmlite.terminal import Progress

SLAB = 1 << 20  # weights dequantized at once


def check_weights(file: GGUFFile, *, progress: Progress | None = None) -> None:
    """Dequantize all tensors of a file and refuse any weight that isn't a finite number.

    Opening a file doesn't check this, because the whole file would have to be read. The check takes about a
    second for 100 million weights.

    Args:
        file: an open file, or an open split model.
        progress: called as progress(bytes_done, n_bytes).

    Raises:
        GGUFError: a weight is NaN or infinite. The error names the tensor and the block, with the block's
            offset in the file.
    """
    guard.arm()
    total = sum(tensor.n_bytes for tensor in file.tensors.values())
    done = 0
    for part in file.shards or [file]:
        for name, tensor in part.tensors.items():
            kind = tensor.type
            step = max(1, SLAB // kind.block_size)
            for start in range(0, len(tensor.blocks), step):
                blocks = tensor.blocks[start : start + step]
                weights = kind.dequantize(blocks)  # (n, block_size)
                guard.check(blocks)
                finite = np.isfinite(weights)
                if not finite.all():
                    block = start + int(np.argmin(finite.all(axis=1)))
                    info = part._head.tensors[name]
                    offset = part.data_offset + info.offset + block * kind.type_size
                    got = weights[block - start][~finite[block - start]][0]
                    raise GGUFError(part.path, f"{shown(name)}: block {block}", offset, "finite weights", got,
                                    "the weights are damaged")  # fmt: skip
                done += len(weights) * kind.type_size
                if progress is not None:
                    progress(done, total)
