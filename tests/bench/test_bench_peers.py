"""Peers that may be installed here or in environments of their own: the same tokens, the same logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite import resources
from llmlite.bench import quality
from llmlite.bench.agreement import judge, judge_tokens
from llmlite.bench.backends import BACKENDS
from llmlite.bench.backends.system_info import instructions
from llmlite.bench.inputs import agreement_ids, open_models
from llmlite.bench.process import WorkerProcess

PEERS = tuple(name for name, info in BACKENDS.items() if info.requires)
TYPE = "Q8_0"  # one that every reader of GGUF knows

pytestmark = pytest.mark.conformance


@pytest.fixture(scope="module")
def reference() -> tuple[list[int], np.ndarray]:
    [file] = open_models("tales", (TYPE,))
    ids = agreement_ids(file, 24)
    return ids, ll.load(file.path, kv_dtype="f32", executor="eager").logits(ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_computes_the_same_and_writes_what_it_reads(
    name: str, reference: tuple[list[int], np.ndarray], tmp_path: Path
) -> None:
    info = BACKENDS[name]
    if reason := info.unavailable():
        pytest.skip(reason)
    ids, exact = reference
    path = str(resources.model_path(f"tales:{TYPE}"))
    with WorkerProcess(name, 1, python=info.python(), timeout=240) as worker:
        worker.ask("start")
        worker.ask("convert", model=path, n_ctx=64)
        about = worker.ask("load", model=path, n_ctx=64, n_threads=1)["about"]
        assert about["type_k"] and about["n_threads"] >= 1 and about["isa"]
        worker.ask("compile", lengths=[8])
        written = worker.ask("greedy", ids=ids[:8], n_gen=5)["ids"]
        timed = worker.ask("decode", ids=ids[:8], n_gen=5)
        assert timed["samples_ns"][0] > 0 and len(written) == 5
        if not info.gives_logits:
            tokens = [worker.ask("greedy", ids=ids[: i + 1], n_gen=1)["ids"][0] for i in range(len(ids))]
            verdict = judge_tokens(tokens, exact, exact)
            assert verdict["same_file_top1"] > 0.8, verdict["reason"]
            return
        worker.ask("logits", ids=ids, out=str(tmp_path / "logits.npy"))
        logits = np.load(tmp_path / "logits.npy")
        worker.ask("logits", ids=[*ids[:8], *written], out=str(tmp_path / "all.npy"))
        again = np.load(tmp_path / "all.npy")[7:-1]
    verdict = judge(logits, exact, exact, info, own=bool(about.get("own_quantization")))
    assert verdict["agrees"], verdict["reason"]
    gaps = quality.log_softmax(again).max(-1) - quality.log_softmax(again)[range(5), written]
    assert gaps.max() < 0.2, f"it wrote tokens {gaps} nats below the best"


def test_llama_cpps_features_are_those_that_are_on() -> None:
    said = b"CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | OPENMP = 1 | "
    assert instructions(said) == instructions(said.decode()) == "SSE3 AVX2 OPENMP"
    assert instructions("") == ""
