"""Write what is shipped for evaluation: data/tales-questions.jsonl and data/tales-eval.txt, all held out.

One line of the questions, for the families where, friend, why and unsaid:
    family, question, answer, names (the tale's characters), sentences (the tale, joined by one space),
    source (index of the sentence that answers, null for unsaid), other (index of one that doesn't matter).
For list and arithmetic the prompt is the question alone and `sentences` is empty.
"""

import argparse
import json
import random
from pathlib import Path

import tokenizer as vocabulary
from corpus import END, START, arithmetic_turn, plain_text, say_again, shard
from tales import Tale, make_tale

DATA = Path(__file__).parent.parent
SEED = 3
LOOKUPS = ("where", "friend", "why")


def prompt_of(record: dict, erased: int | None = None) -> str:
    """Return the ChatML prompt of a record, up to the assistant's first word; one sentence may be erased."""
    tale = " ".join(s for i, s in enumerate(record["sentences"]) if i != erased)
    return f"{START}user\n{tale + chr(10) * 2 if tale else ''}{record['question']}{END}\n{START}assistant\n"


def _record(family: str, question: str, answer: str, tale: Tale | None = None, **more: object) -> dict:
    return {
        "family": family,
        "question": question,
        "answer": answer,
        "names": tale.characters if tale else [],
        "sentences": [s.text for s in tale.sentences] if tale else [],
        "source": None,
        "other": None,
        **more,
    }


def _lookup(rng: random.Random, family: str) -> dict | None:
    tale = make_tale(rng, held_out=True)
    mine = [i for i in tale.fact_indices() if tale.sentences[i].fact.family == family]
    if not mine:
        return None
    source = rng.choice(mine)
    other = rng.choice([i for i, s in enumerate(tale.sentences) if i != source and s.role != "intro"])
    question, answer = rng.choice(tale.sentences[source].fact.questions)
    return _record(family, question, answer, tale, source=source, other=other)


def _unsaid(rng: random.Random) -> dict:
    """Really erase a sentence, then ask about it."""
    tale = make_tale(rng, held_out=True)
    erased = rng.choice(tale.fact_indices())
    question, _ = rng.choice(tale.sentences.pop(erased).fact.questions)
    return _record("unsaid", question, "The tale does not say.", tale)


def records(seed: int = SEED, each: int = 150) -> list[dict]:
    """Return `each` questions per lookup family, and 60 each of unsaid, list and arithmetic."""
    rng = random.Random(f"questions {seed}")
    made: list[dict] = []
    for family in LOOKUPS:
        found = 0
        while found < each:
            record = _lookup(rng, family)
            if record is not None:
                made.append(record)
                found += 1
    made += [_unsaid(rng) for _ in range(60)]
    for _ in range(60):
        made.append(_record("list", *say_again(rng, True, rng.randint(3, 10))))
    for _ in range(60):
        ((family, question, answer),) = arithmetic_turn(rng, True)
        made.append(_record(family, question, answer))
    return made


def evaluation_text(seed: int = SEED, at_least: int = 50_000) -> str:
    """Return held-out documents, one after the other, each beginning with the BOS text."""
    tokenizer, texts, n_tokens = vocabulary.load(), [], 0
    for document in shard(seed, 0, 1000, held_out=True):
        if all(isinstance(segment.content, str) for segment in document):
            texts.append(plain_text(document))
            n_tokens += len(tokenizer.encode(texts[-1]).ids)
        if n_tokens >= at_least + 2000:
            return "\n".join(texts) + "\n"
    raise AssertionError("the shard is too small for the evaluation text")


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    lines = [json.dumps(record, ensure_ascii=False) for record in records()]
    (DATA / "tales-questions.jsonl").write_text("\n".join(lines) + "\n")
    (DATA / "tales-eval.txt").write_text(evaluation_text())
    print(f"wrote {len(lines)} questions and the evaluation text")


if __name__ == "__main__":
    main()
