"""Train the bundled model for a few steps with PyTorch's autograd; the loss must fall."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from llmlite import resources
from llmlite.bench.backends.torch_eager import TorchTransformer
from llmlite.bench.backends.weights import floats, opened

STEPS = 20


def run(ids: list[int]) -> dict[str, Any]:
    """Train for STEPS steps of Adam on the text `ids`; return the loss before and after, and the seconds."""
    torch.manual_seed(0)
    tokens = torch.tensor(ids)
    torch.set_num_threads(1)
    with opened(str(resources.model_path("tales"))) as (shape, tensors):
        weights = {
            name: torch.from_numpy(floats(tensor)).requires_grad_() for name, tensor in tensors.items()
        }
    optimizer = torch.optim.Adam(weights.values(), lr=1e-4)
    losses = []
    begin = perf_counter()
    for _ in range(STEPS + 1):
        model = TorchTransformer(weights, shape, len(ids), compiled=False)  # an empty cache for every step
        loss = F.cross_entropy(model(tokens[:-1], 0, last_only=False), tokens[1:])
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {
        "steps": STEPS,
        "loss_before": losses[0],
        "loss_after": losses[-1],
        "seconds": perf_counter() - begin,
    }
