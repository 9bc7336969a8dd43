"""Measure the gain from drafts: the accepted share, and the time with and without a draft, in turns.

    python benchmarks/speculation.py MODEL.gguf                        # prompt lookup
    python benchmarks/speculation.py MODEL.gguf --draft SMALLER.gguf   # and a draft model

Tokens are chosen greedily. "copy" asks the model to continue a passage that its prompt holds twice, the best
case for prompt lookup. "free" is a new text. A round in which a draft changes the text fails.
"""

from __future__ import annotations

import argparse
from typing import Any

import llmlite as ll

PASSAGE = (
    "The fox lived at the edge of the wood. Every morning it walked to the river and looked at the sky. "
    "One day a bear came to the river too. The bear asked the fox what it saw in the sky. "
)
PROMPTS = {"copy": PASSAGE + PASSAGE + "The fox lived at", "free": "Once upon a time there was a bear who"}


def run(model: Any, prompt: str, n_tokens: int, **options: Any) -> tuple[float, Any]:
    """Return the seconds of a text after its first token, and its Generation."""
    model.cache.truncate(0)
    generation = model.stream(prompt, max_tokens=n_tokens, temperature=0, **options)
    for _ in generation:
        pass
    return generation.decode_seconds, generation


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--draft", help="a smaller model of the same vocabulary")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    model = ll.load(options.model, n_ctx=512, n_threads=options.threads, executor="planned")
    drafts: dict[str, Any] = {"prompt-lookup": "prompt-lookup"}
    if options.draft:
        drafts["model"] = ll.load(options.draft, n_ctx=512, n_threads=options.threads, executor="planned")
    for kind, prompt in PROMPTS.items():
        for name, draft in drafts.items():
            plain = with_draft = 1e9
            for _ in range(options.rounds):
                seconds, alone = run(model, prompt, options.tokens)
                plain = min(plain, seconds)
                seconds, drafted = run(model, prompt, options.tokens, draft=draft)
                with_draft = min(with_draft, seconds)
                assert drafted.ids == alone.ids, "a draft changed the text"
            text = str(drafted.speculation).partition(": ")[2]  # drop the draft's path
            print(
                f"{kind:5} {name:14} {plain / with_draft:5.2f} times as fast; its report: {text}", flush=True
            )


if __name__ == "__main__":
    main()
