"""Three tasks without language and one custom architecture in PyTorch; each must learn."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn


def run() -> dict[str, Any]:
    """Run each toy task; return its result and the result of guessing."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return {
        "image_accuracy": _image(),
        "image_guess": 0.5,
        "series_error": _series(),
        "series_guess": 0.5,
        "reward": _reward(),
        "reward_guess": 0.25,
        "new_architecture_output": _new_architecture(),
    }


def _image() -> float:
    """Learn to tell horizontal from vertical bars in noisy 8 x 8 images; return the accuracy on new ones."""

    def pictures(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = 0.3 * torch.randn(n, 1, 8, 8), torch.randint(0, 2, (n,))
        place = torch.randint(0, 8, (n,))
        for i in range(n):
            if y[i]:
                x[i, 0, place[i]] += 1
            else:
                x[i, 0, :, place[i]] += 1
        return x, y

    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    _fit(model, *pictures(256), F.cross_entropy, 150)
    x, y = pictures(200)
    return float((model(x).argmax(dim=1) == y).float().mean())


def _series() -> float:
    """Predict the next value of a sine wave from twelve; return the mean squared error (guessing 0: 0.5)."""
    begin = 6.28 * torch.rand(256, 1)
    wave = (begin + 0.4 * torch.arange(13)).sin()
    model = _Last()
    _fit(model, wave[:, :12, None], wave[:, 12:], F.mse_loss, 150)
    return float(F.mse_loss(model(wave[:, :12, None]), wave[:, 12:]))


class _Last(nn.Module):
    """A recurrent network that answers from its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.out = nn.GRU(1, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.memory(x)[0][:, -1])


def _reward() -> float:
    """Learn by REINFORCE which of four levers pays in each room; return the mean reward at the end."""
    policy = nn.Linear(4, 4)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    pays = torch.tensor([2, 0, 3, 1])
    for _ in range(150):
        room = torch.randint(0, 4, (64,))
        choice = torch.distributions.Categorical(logits=policy(F.one_hot(room, 4).float()))
        lever = choice.sample()
        reward = (lever == pays[room]).float()
        optimizer.zero_grad()
        (-(reward - reward.mean()) * choice.log_prob(lever)).mean().backward()
        optimizer.step()
    return float(reward.mean())


class NewArchitecture(nn.Module):
    """A ten-line architecture that no GGUF engine knows: it mixes each token with the running mean so far."""

    def __init__(self, n_vocab: int, n_embd: int) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(n_vocab, n_embd), nn.Linear(2 * n_embd, n_embd)
        self.head = nn.Linear(n_embd, n_vocab)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        mean = x.cumsum(dim=0) / torch.arange(1, len(ids) + 1)[:, None]
        return self.head(torch.tanh(self.mix(torch.cat((x, mean), dim=-1))))


def _new_architecture() -> list[int]:
    return list(NewArchitecture(50, 8)(torch.arange(6)).shape)


def _fit(model: nn.Module, x: torch.Tensor, y: torch.Tensor, loss: Any, steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
