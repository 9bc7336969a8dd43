"""Time embeddings beside transformers, interleaved: the figures of docs/embeddings.md.

    python -m tests.conformance.embedding_speed FOLDER [THREADS]

FOLDER: all-MiniLM-L6-v2 as sentence-transformers has it (the package of `llmlite pull minilm`, unpacked).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

N_TEXTS, N_TOKENS, N_RUNS = 16, 128, 6


def main(folder: str, n_threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(n_threads)
    import torch
    from transformers import AutoModel

    import llmlite as ll
    from llmlite.huggingface import convert_folder

    torch.set_num_threads(n_threads)
    reference = AutoModel.from_pretrained(folder).eval()
    random = np.random.default_rng(0)
    texts = [[101, *random.integers(1000, 20000, N_TOKENS - 2).tolist(), 102] for _ in range(N_TEXTS)]
    ids = torch.tensor(texts)

    def transformers() -> None:
        with torch.inference_mode():
            states = reference(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            torch.nn.functional.normalize(states.mean(1))

    runs: dict[str, Callable] = {"transformers": transformers}
    with tempfile.TemporaryDirectory() as made:
        for file_type in ("F32", "Q8_0"):
            path = os.path.join(made, f"{file_type}.gguf")
            convert_folder(folder, path, file_type=file_type)
            model = ll.load(path, n_threads=n_threads)
            runs[f"llmlite {file_type}"] = lambda model=model: model.embed(texts)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(N_RUNS + 1):  # the first run warms up
            for name, run in runs.items():
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    for name, times in found.items():
        wall, cpu = (1e3 * min(column) / N_TEXTS for column in zip(*times[1:]))
        print(f"{name:16} {wall:7.2f} ms, {cpu:7.2f} ms of CPU time for each sentence")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2)
