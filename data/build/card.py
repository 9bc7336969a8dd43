"""Write data/tales-card.md from the evaluation and the loss log: no figure is typed by hand."""

import argparse
import json
from pathlib import Path

from model import Config

DATA = Path(__file__).parent.parent

HEAD = """# tales: a very small model of invented tales

A llama of {parameters:,} parameters, trained from nothing on generated English: tales about people with
invented names, questions about them, small talk, lists and random token sequences said twice, sums of small
numbers. It exists for lessons: it is small enough to be read, quantized and taken apart in seconds, and
every sentence it should know the answer from can be pointed at. It knows nothing of the world and must
not be used to find anything out.

| | |
|---|---|
| architecture | llama: {n_layer} layers, n_embd {n_embd}, {n_head} heads of {head_size} |
| | {n_head_kv} key/value heads, n_ff {n_ff}, RoPE base 10000, tied embeddings |
| context | {n_ctx} tokens |
| vocabulary | {n_vocab} byte-level BPE tokens, every digit a token of its own; ChatML |
| file | `tales-f16.gguf`: matrices F16, norms F32, written by `llmlite.gguf.write` |
| training | {tokens:,} tokens in {steps:,} steps, bfloat16 autocast |
| time | {minutes:.0f} minutes on two processor cores, shared with other work |
| optimizers | Muon (rate 0.02) for the matrices inside, AdamW (0.003) for embeddings and norms; {schedule} |
| seeds | tokenizer, weights and corpus 1; validation 2; questions and evaluation text 3 |
| licence | MIT, corpus and scripts too: nothing in it was taken from anywhere |

How to make it again: `data/build/README.md`. The loss log is `tales-training.jsonl`.
"""

TALK = """
## Talking to it

It expects the shapes that it was trained on: `Once upon a time` (a raw tale); in chat `Tell me a tale about
NAME.`; a tale, an empty line and a question (`Where is the KEY?`, `Where did NAME hide the KEY?`, `Who is
NAME's friend?`, `Why was NAME sad?`), then more questions; `Repeat after me: ...`; `What is 7 + 5?`; `Hello!`
What a tale does not say is answered with `The tale does not say.`
"""


def bars(report: dict) -> str:
    lines = [
        "\n## The bars, measured by `data/build/evaluate.py` on held-out names and tales\n",
        "| what | figure | bar | |",
        "|---|---|---|---|",
    ]
    for name, bar in report["bars"].items():
        value = bar["value"]
        shown = ", ".join(f"{v:.2g}" for v in value) if isinstance(value, list) else f"{value:.3f}"
        wanted = bar["bar"]
        if not isinstance(wanted, str):
            wanted = f"{'≤' if wanted in (0.05,) or 'loss of' in name else '≥'} {wanted:g}"
        lines.append(f"| {name} | {shown} | {wanted} | {'met' if bar['met'] else '**missed**'} |")
    missed = [name for name, bar in report["bars"].items() if not bar["met"]]
    lines.append("\nMissed: " + ("; ".join(missed) + "." if missed else "none of them."))
    exact = report["lookups"]["exact"]
    lines.append(
        "\nExact answers by family, letter for letter: "
        + ", ".join(f"{family} {share:.1%}" for family, share in exact.items())
        + ". Arithmetic has no bar: its pairs of numbers never occurred in training."
    )
    changed = report["lookups"]["changed_without_source_by_family"]
    right = report["lookups"]["changed_without_source_of_right_answers"]
    lines.append(
        "\nAnswers changed when the source is erased: "
        + ", ".join(f"{family} {share:.1%}" for family, share in changed.items())
        + f"; of the right answers {right:.1%}. An answer that "
        "was already `The tale does not say.` can't change, and where a tale has only two characters, the "
        "friend can be guessed."
    )
    induction = report["induction"]
    lines.append(
        f"\nRandom ids said twice: loss {induction['first_half']:.2f} nats the first time (an even guess "
        f"would be {7.62:.2f}; the model expects text), {induction['second_half']:.2f} the second. "
        f"The head that copies is layer.head {induction['best_head']}."
    )
    return "\n".join(lines) + "\n"


def quantization(report: dict) -> str:
    table = report["quantization"]
    families = list(next(iter(table.values()))["exact"])
    lines = [
        "\n## What quantizing costs\n",
        "Every matrix in that type, quantized by llmlite. KL divergence from float32 in nats per token, and",
        "exact answers by family.\n",
        "| type | KL | loss | " + " | ".join(families) + " |",
        "|---|---|---|" + "---|" * len(families),
    ]
    for name, row in table.items():
        shares = " | ".join(f"{row['exact'][family]:.0%}" for family in families)
        lines.append(f"| {name} | {row['kl']:.2g} | {row['loss']:.3f} | {shares} |")
    return "\n".join(lines) + "\n"


def last_losses(entry: dict) -> str:
    losses = ", ".join(f"{family} {loss:.3f}" for family, loss in entry["loss"].items())
    title = "\n## Loss at the end, held out, nats per token\n\n"
    return title + f"Training (weighted) {entry['training_loss']:.3f}; {losses}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--notes", type=Path, default=Path(__file__).parent / "notes.md", help="added at the end"
    )
    options = parser.parse_args()
    report = json.loads((DATA / "tales-evaluation.json").read_text())
    log = [json.loads(line) for line in (DATA / "tales-training.jsonl").read_text().splitlines()]
    last, flat = log[-1], max(entry["step"] for entry in log if entry["rate"] == 1.0)
    schedule = f"flat until step {flat:,}, then falling to zero (table at the end)"
    config = Config(**report["config"])
    text = HEAD.format(
        parameters=report["parameters"],
        tokens=last["tokens"],
        steps=last["step"],
        minutes=last["seconds"] / 60,
        schedule=schedule,
        head_size=config.head_size,
        **report["config"],
    )
    text += bars(report) + quantization(report) + last_losses(last) + TALK
    if options.notes.exists():
        text += "\n" + options.notes.read_text()
    (DATA / "tales-card.md").write_text(text)
    print("wrote tales-card.md")


if __name__ == "__main__":
    main()
