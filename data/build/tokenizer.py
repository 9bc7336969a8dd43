"""Train and use the tokenizer: byte-level BPE of 2,048 tokens with the GPT-2 pre-tokenizer."""

import argparse
import re
from pathlib import Path

from corpus import BOS, END, N_VOCAB, START, plain_text, shard
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).parent
PATH = HERE / "tokenizer.json"
SPECIAL = [BOS, START, END]


def train(seed: int = 1, shards: int = 6) -> Tokenizer:
    """Learn the merges from the first shards of the training corpus.

    Digits are left out, so every digit stays a token of its own: "12" is "1", "2".
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB,
        special_tokens=SPECIAL,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    texts = (
        re.sub(r"<\|\w+\|>|[0-9]", "\n", plain_text(document))
        for index in range(shards)
        for document in shard(seed, index)
    )
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == N_VOCAB and tokenizer.token_to_id(BOS) == 0
    return tokenizer


def load() -> Tokenizer:
    return Tokenizer.from_file(str(PATH))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    train(parser.parse_args().seed).save(str(PATH))
    print(f"wrote {PATH.name}")


if __name__ == "__main__":
    main()
