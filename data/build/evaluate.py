"""Measure every bar of the model card: data/tales-evaluation.json, printed as it comes.

The reference is the checkpoint in float32; "F16" and the quantized types are the same weights through
llmlite's own quantizers. An answer counts as right when it is letter for letter the expected one.
"""

import argparse
import json
import random
import time
from pathlib import Path

import metrics
import numpy as np
import tokenizer as vocabulary
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from corpus import BOS, END, N_SPECIAL, N_VOCAB
from model import Config, Llama
from questions import prompt_of
from tales import make_tale

HERE = Path(__file__).parent
DATA = HERE.parent
TYPES = ("F16", "Q8_0", "Q6_K", "Q5_K", "Q5_0", "Q4_K", "Q4_0", "Q3_K", "Q2_K")
LADDER = ("Q8_0", "Q5_K", "Q4_K", "Q3_K", "Q2_K")  # must lose more and more
LOOKUPS = ("where", "friend", "why")


class Judge:
    """A model with its tokenizer: answers in batches, and whether given answers are the greedy ones."""

    def __init__(self, model: Llama) -> None:
        self.model, self.tokenizer = model.eval(), vocabulary.load()
        self.end = self.tokenizer.token_to_id(END)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    @torch.no_grad()
    def generate(self, prompts: list[str], max_tokens: int, batch: int = 64) -> list[str]:
        """Answer greedily; prompts of like lengths share a batch, padded on the left."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers = [""] * len(prompts)
        for start in range(0, len(order), batch):
            members = order[start : start + batch]
            encoded = [self.encode(BOS + prompts[i]) for i in members]
            for i, ids in zip(members, self._greedy(encoded, max_tokens), strict=True):
                answers[i] = self.tokenizer.decode(ids, skip_special_tokens=False)
        return answers

    def _greedy(self, encoded: list[list[int]], max_tokens: int) -> list[list[int]]:
        width = max(map(len, encoded))
        ids = torch.tensor([[0] * (width - len(e)) + e for e in encoded])
        pad = torch.tensor([width - len(e) for e in encoded])[:, None]  # (B, 1)
        positions = (torch.arange(width)[None] - pad).clamp(min=0)
        seen = torch.arange(width)[None] >= pad  # (B, S)
        mask = (seen[:, None, None] & torch.ones(width, width, dtype=torch.bool).tril()) | torch.eye(
            width, dtype=torch.bool
        )  # padding sees itself: an empty row would be NaN
        caches: list[dict] = [{} for _ in self.model.blk]
        hidden = self.model(ids, caches, mask, positions)[:, -1]
        made: list[list[int]] = [[] for _ in encoded]
        done = [False] * len(encoded)
        for step in range(max_tokens):
            following = self.model.logits(hidden).argmax(-1)  # (B,)
            for row, token in enumerate(following.tolist()):
                done[row] = done[row] or token == self.end
                if not done[row]:
                    made[row].append(token)
            if all(done):
                break
            seen = torch.cat([seen, torch.ones_like(pad, dtype=torch.bool)], dim=1)
            hidden = self.model(following[:, None], caches, seen[:, None, None], width + step - pad)[:, -1]
        return made

    @torch.no_grad()
    def is_greedy(self, prompts: list[str], answers: list[str], batch: int = 32) -> list[bool]:
        """Say for each answer whether the model would give exactly it (teacher forcing, no generation)."""
        pairs = [(self.encode(BOS + p), self.encode(a + END)) for p, a in zip(prompts, answers, strict=True)]
        order = sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i])))
        right = [False] * len(pairs)
        for start in range(0, len(order), batch):
            members = order[start : start + batch]
            width = max(sum(map(len, pairs[i])) for i in members)
            ids = torch.zeros(len(members), width, dtype=torch.long)
            for row, i in enumerate(members):
                whole = pairs[i][0] + pairs[i][1]
                ids[row, : len(whole)] = torch.tensor(whole)
            best = self.model.logits(self.model(ids)).argmax(-1)
            for row, i in enumerate(members):
                prompt, answer = pairs[i]
                given = best[row, len(prompt) - 1 : len(prompt) + len(answer) - 1]
                right[i] = given.tolist() == answer
        return right


def by_family(records: list[dict], right: list[bool]) -> dict[str, float]:
    shares = {}
    for family in dict.fromkeys(r["family"] for r in records):
        mine = [ok for r, ok in zip(records, right, strict=True) if r["family"] == family]
        shares[family] = round(sum(mine) / len(mine), 4)
    return shares


def lookups(judge: Judge, records: list[dict]) -> dict:
    """Exact answers, names copied, and what erasing a sentence does to the answers."""
    answers = judge.generate([prompt_of(r) for r in records], 64)
    right = [a == r["answer"] for a, r in zip(answers, records, strict=True)]
    asked = [(r, a) for r, a in zip(records, answers, strict=True) if r["family"] in LOOKUPS]
    names = np.array([metrics.names_right(r["answer"], a, r["names"]) for r, a in asked])
    kept_source = judge.is_greedy([prompt_of(r, r["source"]) for r, _ in asked], [a for _, a in asked])
    kept_other = judge.is_greedy([prompt_of(r, r["other"]) for r, _ in asked], [a for _, a in asked])
    exact = by_family(records, right)
    changed = [not kept for kept in kept_source]
    of_right = [c for c, (r, a) in zip(changed, asked, strict=True) if a == r["answer"]]
    return {
        "exact": exact,
        "exact_lookups": round(sum(exact[f] for f in LOOKUPS) / 3, 4),
        "names_right": round(float(names[:, 0].sum() / names[:, 1].sum()), 4),
        "names_counted": int(names[:, 1].sum()),
        "changed_without_source": round(sum(changed) / len(asked), 4),
        "changed_without_source_by_family": by_family([r for r, _ in asked], changed),
        "changed_without_source_of_right_answers": round(sum(of_right) / len(of_right), 4),
        "changed_without_other": round(1 - sum(kept_other) / len(asked), 4),
        "mistakes": [
            {"question": r["question"], "expected": r["answer"], "got": a}
            for r, a in zip(records, answers, strict=True)
            if a != r["answer"]
        ][:40],
    }


@torch.no_grad()
def induction(judge: Judge, count: int = 32, length: int = 100) -> dict:
    """Random ids said twice: the loss of both halves, and the head that looks where copying needs it."""
    ids = torch.randint(N_SPECIAL, N_VOCAB, (count, length), generator=torch.Generator().manual_seed(4))
    ids = torch.cat([torch.zeros(count, 1, dtype=torch.long), ids, ids], dim=1)  # (B, 1 + 2 length)
    model = judge.model
    logits = model.logits(model(ids))
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(
        count, -1
    )
    first, second = loss[:, :length].mean().item(), loss[:, length:].mean().item()
    heads = {}
    x = model.token_embd(ids)
    for layer, block in enumerate(model.blk):
        weights = attention_weights(block, x, model).mean(0).numpy()  # (H, T, T)
        for head in range(len(weights)):
            heads[f"{layer}.{head}"] = metrics.copying_attention(weights[head], 1, length)
        x = block(x, model.cos[: ids.shape[1]], model.sin[: ids.shape[1]])
    best = max(heads, key=heads.__getitem__)
    return {
        "first_half": round(first, 4),
        "second_half": round(second, 4),
        "ratio": round(second / first, 4),
        "best_head": best,
        "attention": round(heads[best], 4),
        "heads": {name: round(value, 3) for name, value in heads.items()},
    }


def attention_weights(block: torch.nn.Module, x: torch.Tensor, model: Llama) -> torch.Tensor:
    """Return softmax(q k / sqrt(Dh)) of one layer, (B, H, T, T)."""
    n = x.shape[1]
    q, k, _ = block.qkv(block.attn_norm(x), model.cos[:n], model.sin[:n])
    k = k.repeat_interleave(model.config.n_head // model.config.n_head_kv, dim=1)
    scores = q @ k.transpose(-1, -2) / model.config.head_size**0.5
    return scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), float("-inf")).softmax(-1)


def common_words() -> frozenset[str]:
    """Return every lower-case word of the held-out corpus that isn't a character's name."""
    rng, known = random.Random("common words"), set()
    for _ in range(3000):
        tale = make_tale(rng, held_out=True)
        known |= {w.strip('.,"!?;:').removesuffix("'s") for w in tale.text().split()} - set(tale.characters)
    return frozenset(w.lower() for w in known if w)


def tales(judge: Judge, count: int = 50, max_tokens: int = 100) -> dict:
    """Greedy tales from held-out beginnings: do they stay on the characters, do they loop?"""
    rng, prompts, characters = random.Random("tale prompts 5"), [], []
    while len(prompts) < count:
        tale = make_tale(rng, held_out=True)
        prompts.append(" ".join(s.text for s in tale.sentences if s.role == "intro"))
        characters.append(tale.characters)
    told, common = judge.generate(prompts, max_tokens), common_words()
    stays = [metrics.stays_on_characters(t, c, common) for t, c in zip(told, characters, strict=True)]
    return {
        "stay": sum(stays) / count,
        "loops": sum(map(metrics.is_loop, told)) / count,
        "strangers": sum(
            bool(metrics.strangers(t.rsplit(" ", 1)[0], c, common))
            for t, c in zip(told, characters, strict=True)
        )
        / count,
        "examples": [f"{p} | {t}" for p, t in list(zip(prompts, told, strict=True))[:5]],
    }


def held_out_ids(judge: Judge, rows: int = 24, length: int = 384) -> torch.Tensor:
    """Return the first rows of the evaluation text, each row one stretch after a BOS, (B, T)."""
    ids = judge.encode((DATA / "tales-eval.txt").read_text())[: rows * (length - 1)]
    return torch.cat([torch.zeros(rows, 1, dtype=torch.long), torch.tensor(ids).view(rows, -1)], dim=1)


def quantized(model: Llama, type_name: str) -> Llama:
    """Return a copy with every matrix taken through `type_name` and back by llmlite's quantizers."""
    from llmlite.quants.tensor import QuantTensor

    copy = Llama(model.config)
    copy.load_state_dict(
        {
            name: torch.from_numpy(QuantTensor.quantize(w.numpy(), type_name, name).dequantize().copy())
            if w.dim() == 2
            else w
            for name, w in model.state_dict().items()
        }
    )
    return copy


@torch.no_grad()
def quantization(judge: Judge, records: list[dict], types: tuple[str, ...]) -> dict:
    """For every type: KL divergence from F32 on held-out text, its loss, and exact answers by family."""
    ids, result = held_out_ids(judge), {}
    reference = [judge.model.logits(judge.model(part)) for part in ids.split(8)]
    prompts, answers = [prompt_of(r) for r in records], [r["answer"] for r in records]
    for name in types:
        other = Judge(quantized(judge.model, name))
        logits = [other.model.logits(other.model(part)) for part in ids.split(8)]
        kl = np.concatenate(
            [
                metrics.kl_divergence(a.flatten(0, 1).numpy(), b.flatten(0, 1).numpy())
                for a, b in zip(reference, logits, strict=True)
            ]
        )
        loss = F.cross_entropy(torch.cat(logits)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()
        result[name] = {
            "kl": float(f"{kl.mean():.4g}"),
            "loss": round(loss, 4),
            "exact": by_family(records, other.is_greedy(prompts, answers)),
        }
        print(name, json.dumps(result[name]), flush=True)
    return result


def load_model(checkpoint: Path, as_f16: bool = False) -> Llama:
    """Load a checkpoint as float32; `as_f16` rounds the matrices as the exported file does."""
    state = torch.load(checkpoint, weights_only=False)
    model = Llama(Config(**state["config"]))
    model.load_state_dict(
        {
            name: w.half().float() if as_f16 and w.dim() == 2 else w.float()
            for name, w in state["model"].items()
        }
    )
    return model


def bars(report: dict) -> dict[str, dict]:
    """Put every figure beside its bar."""
    q, steps = report.get("quantization", {}), [t for t in LADDER if t in report.get("quantization", {})]
    found = {
        "exact match over where, friend, why": (report["lookups"]["exact_lookups"], 0.90, True),
        "names copied right": (report["lookups"]["names_right"], 0.95, True),
        "answers changed when the source sentence is erased": (
            report["lookups"]["changed_without_source"],
            0.95,
            True,
        ),
        "answers changed when another sentence is erased": (
            report["lookups"]["changed_without_other"],
            0.05,
            False,
        ),
        "random ids said twice: loss of the second half / first": (report["induction"]["ratio"], 0.5, False),
        "best head's attention on the token to copy": (report["induction"]["attention"], 0.5, True),
        "greedy tales that stay on their characters, no loop": (report["tales"]["stay"], 0.80, True),
    }
    result = {
        name: {"value": value, "bar": bar, "met": value >= bar if more else value <= bar}
        for name, (value, bar, more) in found.items()
    }
    if len(steps) == len(LADDER):
        kl = [q[t]["kl"] for t in steps]
        result["KL divergence rises: " + ", ".join(steps)] = {
            "value": kl,
            "bar": "rising",
            "met": kl == sorted(kl),
        }
        drop = {f: round(q["F16"]["exact"][f] - q["Q2_K"]["exact"][f], 4) for f in q["F16"]["exact"]}
        worst = max(drop, key=drop.__getitem__)
        result[f"a family loses by 2 bits (most: {worst})"] = {
            "value": drop[worst],
            "bar": 0.10,
            "met": drop[worst] >= 0.10,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=HERE / "checkpoint.pt")
    parser.add_argument("--quick", action="store_true", help="no quantized types, a third of the questions")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", type=Path, default=DATA / "tales-evaluation.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    records = [json.loads(line) for line in (DATA / "tales-questions.jsonl").read_text().splitlines()]
    records = records[::3] if options.quick else records
    judge = Judge(load_model(options.checkpoint, as_f16=True))
    report: dict = {
        "config": judge.model.config.as_dict(),
        "parameters": sum(p.numel() for p in judge.model.parameters()),
    }
    for name, measure in (
        ("lookups", lambda: lookups(judge, records)),
        ("induction", lambda: induction(judge)),
        ("tales", lambda: tales(judge)),
    ):
        report[name] = measure()
        print(name, json.dumps({k: v for k, v in report[name].items() if k != "heads"}), flush=True)
    if not options.quick:
        report["quantization"] = quantization(Judge(load_model(options.checkpoint)), records, TYPES)
    report["bars"] = bars(report)
    report["seconds"] = round(time.monotonic() - started, 1)
    options.target.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    for name, bar in report["bars"].items():
        print("met   " if bar["met"] else "MISSED", name, bar["value"], "bar", bar["bar"])
    print(f"{report['seconds']} seconds")


if __name__ == "__main__":
    main()
