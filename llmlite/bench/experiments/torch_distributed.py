"""Train a small network in one process and in two that share gradients: the losses must be equal."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

STEPS, ROWS = 5, 32


def run() -> dict[str, Any]:
    """Train in one process and in two (gloo); return each step's losses and their largest difference."""
    alone = _train(0, 1)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, args=(folder,), nprocs=2)
        together = torch.load(Path(folder) / "losses.pt")
    return {
        "processes": 2,
        "losses_alone": alone,
        "losses_together": together,
        "largest_difference": max(abs(a - b) for a, b in zip(alone, together)),
    }


def _worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    losses = _train(rank, 2)
    if rank == 0:
        torch.save(losses, Path(folder) / "losses.pt")
    dist.barrier()
    os._exit(0)  # end at once: gloo aborts a process if its peer closed the connection a moment earlier


def _train(rank: int, world: int) -> list[float]:
    """Train on this rank's share of the rows; gradients and losses are averaged over all ranks."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    x = torch.randn(ROWS, 8)
    y = x.sum(dim=1, keepdim=True).sin()
    mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(STEPS):
        loss = torch.nn.functional.mse_loss(model(x[mine]), y[mine])
        optimizer.zero_grad()
        loss.backward()
        shown = loss.detach().clone()
        if world > 1:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            for each in (shown, *gradients):
                dist.all_reduce(each)
                each /= world
        losses.append(float(shown))
        optimizer.step()
    return losses
