"""Train "tales": Muon for the matrices inside, AdamW for the rest; warm up, stay, then fall linearly.

The corpus is endless, so a run is a schedule: `--steps` to reach, `--decay-from` where the learning
rate starts to fall (to zero at `--steps`). A checkpoint is written every few minutes and on SIGTERM;
`--resume` goes on from it, also with another row length or schedule.
"""

import argparse
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizer as vocabulary
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from corpus import FAMILIES, shard
from model import Config, Llama
from packing import Rows, pack

HERE = Path(__file__).parent
CHECKPOINT = HERE / "checkpoint.pt"
LOG = HERE.parent / "tales-training.jsonl"
VALIDATION_SEED = 2


@dataclass
class Position:
    """Where in the endless corpus the run stands."""

    shard: int = 0
    row: int = 0
    length: int = 512


class Stream:
    """Rows of the training corpus, shard after shard."""

    def __init__(self, seed: int, position: Position) -> None:
        self.seed, self.at, self.tokenizer = seed, position, vocabulary.load()
        self._load()

    def _load(self) -> None:
        self.rows = pack(self.tokenizer, shard(self.seed, self.at.shard), self.at.length + 1, self.at.shard)

    def batch(self, n_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids (B, T+1) int64 and weights (B, T+1) float32."""
        if self.at.row + n_rows > len(self.rows):
            self.at.shard, self.at.row = self.at.shard + 1, 0
            self._load()
        take = slice(self.at.row, self.at.row + n_rows)
        self.at.row += n_rows
        return torch.from_numpy(self.rows.ids[take].astype(np.int64)), torch.from_numpy(
            self.rows.weights[take]
        )


def optimizers(model: Llama, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
    inside = [p for n, p in model.named_parameters() if p.dim() == 2 and not n.startswith("token_embd")]
    rest = [p for n, p in model.named_parameters() if p.dim() != 2 or n.startswith("token_embd")]
    made = [
        torch.optim.Muon(inside, lr=muon_rate, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


def rate_at(step: int, warmup: int, decay_from: int, steps: int) -> float:
    """Return the share of the peak learning rate: up, flat, linearly down to zero."""
    if step < warmup:
        return (step + 1) / warmup
    if step < decay_from:
        return 1.0
    return max(0.0, (steps - step) / max(1, steps - decay_from))


def weighted_loss(model: Llama, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    logits = model.logits(model(ids[:, :-1])).float()  # (B, T, V)
    each = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    w = weights[:, 1:].flatten()
    return (each * w).sum() / w.sum().clamp(min=1.0)


@torch.no_grad()
def validate(model: Llama, rows: Rows) -> dict[str, dict[str, float]]:
    """Return the mean loss per family, and per family the share of answers whose every token is the argmax.

    All tokens being the argmax under teacher forcing is the same as the greedy answer being right.
    """
    losses, hits = [], []
    for start in range(0, len(rows), 8):
        ids = torch.from_numpy(rows.ids[start : start + 8].astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model.logits(model(ids[:, :-1])).float()
        target = ids[:, 1:]
        losses.append(
            F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
        )
        hits.append(logits.argmax(-1) == target)
    loss, hit = torch.cat(losses).numpy(), torch.cat(hits).numpy()
    family, counted, answer = rows.family[:, 1:], rows.weights[:, 1:] > 0, rows.answer[:, 1:]
    result: dict[str, dict[str, float]] = {"loss": {}, "exact": {}}
    for index, name in enumerate(FAMILIES):
        mine = (family == index) & counted
        answers = np.unique(answer[mine & (answer > 0)])
        if mine.any():
            result["loss"][name] = round(float(loss[mine].mean()), 4)
        if len(answers):
            missed = np.unique(answer[mine & (answer > 0) & ~hit])
            result["exact"][name] = round(1 - len(np.intersect1d(answers, missed)) / len(answers), 4)
    return result


def save(path: Path, **state: object) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--ff", type=int, default=768)
    parser.add_argument("--rows", type=int, default=12, help="rows of a batch")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--stop-at", type=int, default=10**9, help="end at this step, to go on with --resume")
    parser.add_argument("--decay-from", type=int, default=10**9)
    parser.add_argument("--warmup", type=int, default=60)
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=3e-3)
    parser.add_argument("--validate-every", type=int, default=100)
    parser.add_argument("--save-every", type=float, default=180.0, help="seconds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--log", type=Path, default=LOG)
    return parser.parse_args()


def begun(
    options: argparse.Namespace, model: Llama, made: list[torch.optim.Optimizer]
) -> tuple[Position, int, int, float]:
    """Return position, step, tokens and seconds of a new run, or of the checkpoint, which is loaded."""
    if not options.resume:
        options.log.write_text("")
        return Position(length=options.length), 0, 0, 0.0
    state = torch.load(options.checkpoint, weights_only=False)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(made, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    position = Position(**state["position"])
    if position.length != options.length:  # rows are packed anew: go on with the next shard
        position = Position(shard=position.shard + 1, length=options.length)
    return position, *state["progress"]


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    config = Config(n_layer=options.layers, n_ff=options.ff)
    model = Llama(config).initialise(torch.Generator().manual_seed(options.seed))
    made = optimizers(model, options.muon_rate, options.adam_rate)
    position, step, tokens, seconds = begun(options, model, made)
    stream = Stream(options.seed, position)
    held_out = pack(stream.tokenizer, shard(VALIDATION_SEED, 0, 160, held_out=True), 513, 0)
    loss_of = torch.compile(weighted_loss, dynamic=False)
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    last_save, clock, losses = time.monotonic(), time.monotonic(), []

    last_step = min(options.steps, options.stop_at)
    while step < last_step and not stop:
        share = rate_at(step, options.warmup, options.decay_from, options.steps)
        for optimizer in made:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
        ids, weights = stream.batch(options.rows)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in made:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        step, tokens = step + 1, tokens + ids[:, 1:].numel()
        due = step % options.validate_every == 0 or step == last_step
        if due:
            now = time.monotonic()
            seconds, clock = seconds + now - clock, now
            entry = {
                "step": step,
                "tokens": tokens,
                "seconds": round(seconds, 1),
                "rate": round(share, 4),
                "training_loss": round(float(np.mean(losses)), 4),
                **validate(model, held_out),
            }
            with options.log.open("a") as log:
                log.write(json.dumps(entry) + "\n")
            print(json.dumps(entry), flush=True)
            losses = []
        if stop or step == last_step or time.monotonic() - last_save > options.save_every:
            last_save = time.monotonic()
            spent = seconds + last_save - clock
            save(
                options.checkpoint,
                model=model.state_dict(),
                config=config.as_dict(),
                optimizers=[o.state_dict() for o in made],
                position=vars(stream.at),
                progress=(step, tokens, spent),
                seed=options.seed,
            )


if __name__ == "__main__":
    main()
