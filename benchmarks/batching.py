"""Measure the tokens per second of several sequences together, of one alone, and of llama.cpp.

    llmlite synth llama-3.2-1b --type Q4_0 -o /tmp/1b.gguf
    python benchmarks/batching.py /tmp/1b.gguf                     # --tokens 64 --rounds 5 --threads 2

Each round times every size of batch in llmlite, then in llama.cpp (`llama_decode` of llama-cpp-python, with a
sequence id for each text). The best round of each counts. Prompts are processed before the clock starts. Both
sides choose tokens greedily.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import llmlite as ll

PROMPT_TOKENS = 16


def prompts(n: int, n_vocab: int) -> list[list[int]]:
    """Return n different prompts, so that nothing is shared."""
    return np.random.default_rng(0).integers(100, min(n_vocab, 30000), (n, PROMPT_TOKENS)).tolist()


def ours(model: Any, n: int, n_tokens: int) -> float:
    """Return the tokens per second of n sequences together in llmlite."""
    batch = model.batch(max_sequences=n, kept=0)
    sampler = ll.Sampler(temperature=0)
    made = [batch.add(ids, max_tokens=n_tokens, sampler=sampler) for ids in prompts(n, model.config.n_vocab)]
    while any(not generation.ids for generation in made):
        batch.step()
    before, start = sum(len(generation.ids) for generation in made), time.perf_counter()
    while len(batch):
        batch.step()
    seconds = time.perf_counter() - start
    return (sum(len(generation.ids) for generation in made) - before) / seconds


class LlamaCpp:
    """Run llama.cpp's own batch: each step takes one token of each sequence."""

    def __init__(self, path: str, n_threads: int, n_sequences: int, n_tokens: int) -> None:
        import llama_cpp

        self.api = api = llama_cpp
        api.llama_backend_init()
        self.silent = api.llama_log_callback(lambda *_: None)  # keep a reference: llama.cpp calls it later
        api.llama_log_set(self.silent, None)
        self.model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        options = api.llama_context_default_params()
        options.n_ctx = n_sequences * (n_tokens + PROMPT_TOKENS + 16)
        options.n_seq_max, options.n_threads, options.n_threads_batch = n_sequences, n_threads, n_threads
        self.context = api.llama_init_from_model(self.model, options)
        self.n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))

    def decode(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        """Run a batch.

        Args:
            tokens: (token, position, sequence, True if its logits are needed) of each token.
        """
        batch = self.api.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, wanted
        status = self.api.llama_decode(self.context, batch)
        self.api.llama_batch_free(batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")

    def best(self, place: int) -> int:
        """Return the likeliest token after the token at this place of the batch."""
        row = self.api.llama_get_logits_ith(self.context, place)
        return int(np.ctypeslib.as_array(row, (self.n_vocab,)).argmax())

    def speed(self, n: int, n_tokens: int) -> float:
        """Return the tokens per second of n sequences together in llama.cpp."""
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        last = []
        for sequence, ids in enumerate(prompts(n, self.n_vocab)):
            self.decode([(t, i, sequence, i == len(ids) - 1) for i, t in enumerate(ids)])
            last.append(self.best(PROMPT_TOKENS - 1))
        start = time.perf_counter()
        for position in range(PROMPT_TOKENS, PROMPT_TOKENS + n_tokens - 1):
            self.decode([(token, position, sequence, True) for sequence, token in enumerate(last)])
            last = [self.best(place) for place in range(n)]
        return n * (n_tokens - 1) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 8])
    options = parser.parse_args()
    model = ll.load(options.model, n_ctx=512, n_threads=options.threads, executor="planned")
    peer = LlamaCpp(options.model, options.threads, max(options.sizes), options.tokens)
    best: dict[tuple[str, int], float] = {}
    for _ in range(options.rounds):
        for n in options.sizes:
            for name, speed in (
                ("llmlite", ours(model, n, options.tokens)), ("llama.cpp", peer.speed(n, options.tokens)),
            ):  # fmt: skip
                best[name, n] = max(best.get((name, n), 0.0), speed)
    print("sequences  llmlite tokens/s  llama.cpp tokens/s  ratio  llmlite against one")
    for n in options.sizes:
        a, b = best["llmlite", n], best["llama.cpp", n]
        print(f"{n:9}  {a:16.1f}  {b:18.1f}  {a / b:5.2f}  {a / best['llmlite', options.sizes[0]]:19.2f}")


if __name__ == "__main__":
    main()
