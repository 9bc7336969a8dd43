"""The worker of a backend: its protocol, and how its end is told."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmlite.bench import worker
from llmlite.bench.process import BackendError, BackendTimeoutError, WorkerProcess


class Counting:
    """A backend that always answers the next number; its logits are rows of zeros."""

    def start(self) -> None: ...

    def load(self, path: str, n_ctx: int, n_threads: int) -> None:
        if path == "missing":
            raise FileNotFoundError(path)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        return np.zeros((len(ids), 4), np.float32)

    def prefill(self, ids: Sequence[int]) -> int:
        return ids[-1] + 1

    def step(self, token: int) -> int:
        return token + 1

    def about(self) -> dict[str, Any]:
        return {"n_threads": 1, "type_k": "f32"}


@pytest.fixture
def counting() -> worker.Worker:
    made = worker.Worker("counting")
    made.backend = Counting()
    return made


def test_decoding_reads_the_prompt_then_makes_one_token_per_step(counting: worker.Worker) -> None:
    answer = counting.answer({"do": "decode", "ids": [1, 2, 3], "n_gen": 5, "repetitions": 2})
    assert answer["ok"] and answer["ids"] == [4, 5, 6, 7, 8]
    assert len(answer["samples_ns"]) == 2 and len(answer["steps_ns"]) == 5
    assert sum(answer["steps_ns"]) == answer["samples_ns"][-1]


def test_decoding_without_ids_goes_on_behind_the_last_step(counting: worker.Worker) -> None:
    counting.answer({"do": "decode", "ids": [1, 2, 3], "n_gen": 2})
    answer = counting.answer({"do": "decode", "ids": [], "n_gen": 3})
    assert answer["ok"] and answer["ids"] == [6, 7, 8]


def test_a_failing_backend_answers_with_its_error_and_goes_on(counting: worker.Worker) -> None:
    failed = counting.answer({"do": "load", "model": "missing", "n_ctx": 8, "n_threads": 1})
    assert failed == {"ok": False, "error": "FileNotFoundError: missing"}
    assert counting.answer({"do": "prefill", "ids": [1]})["ok"]


def test_only_requests_of_the_protocol_are_answered(counting: worker.Worker) -> None:
    for action in ("answer", "__init__", "rm", ""):
        assert not counting.answer({"do": action})["ok"]


def test_logits_travel_through_a_file_not_through_the_lines(counting: worker.Worker, tmp_path: Path) -> None:
    out = tmp_path / "logits.npy"
    assert counting.answer({"do": "logits", "ids": [1, 2], "out": str(out)})["shape"] == [2, 4]
    assert np.load(out).dtype == np.float32


def test_a_backend_that_cannot_start_is_reported_not_raised_in_the_parent() -> None:
    with WorkerProcess("no-such-backend", 1) as process, pytest.raises(BackendError, match="no backend"):
        process.ask("start")


def test_a_dead_worker_is_reported_with_how_it_ended() -> None:
    with WorkerProcess("llmlite-eager", 1) as process:
        process._process.kill()
        with pytest.raises(BackendError, match="ended with code"):
            process.ask("start")


def test_a_worker_that_does_not_answer_is_given_up() -> None:
    with WorkerProcess("llmlite-eager", 1) as process:
        process.timeout = 0.0
        with pytest.raises(BackendError, match="no answer in 0 seconds"):
            process.ask("start")


def test_no_worker_outlives_its_parents_interest() -> None:
    with WorkerProcess("llmlite-eager", 1) as process:
        inner = process._process
    assert inner.poll() is not None


def test_the_folder_the_user_stands_in_lends_a_worker_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the current folder')")
    (tmp_path / "llmlite").mkdir()
    monkeypatch.chdir(tmp_path)
    with WorkerProcess("llmlite-eager", 1) as process:
        assert process.ask("start")["ns"] > 0


def test_threads_are_set_before_the_interpreter_starts() -> None:
    if not os.path.isdir("/proc/self"):
        pytest.skip("needs /proc to look into another process")
    with WorkerProcess("llmlite-eager", 1) as process:
        text = Path(f"/proc/{process._process.pid}/environ").read_text()
    assert "OMP_NUM_THREADS=1\0" in text and "OPENBLAS_NUM_THREADS=1\0" in text


def test_a_worker_keeps_a_limit_over_several_answers() -> None:
    with WorkerProcess("llmlite-eager", 1) as process:
        process.ask("start")
        with pytest.raises(BackendTimeoutError, match="time ran out"), process.answering_within(0.0):
            process.ask("load", model="nothing.gguf", n_ctx=8, n_threads=1)
        assert process.timeout == 300
