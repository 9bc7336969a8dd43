"""A sweep loses nothing: results are files, unlike machines stay apart, and deaths are survived."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmlite.bench import sweep
from llmlite.cli import main
from llmlite.errors import LlmliteError

FAST = ["job=generate", "model=tales:Q4_0", "n_gen=2,3", "seed=0,1"]


def result(task: sweep.Task, env_hash: str, speeds: list[float]) -> dict[str, Any]:
    values = dict(task.values)
    return {
        "task": task.id, "kind": task.kind, "values": values, "env_hash": env_hash,
        "result": {"samples_ts": speeds},
    }  # fmt: skip


def test_a_grid_is_all_combinations_each_with_a_name_of_its_own() -> None:
    tasks = sweep.grid(FAST)
    assert len({task.id for task in tasks}) == len(tasks) == 4
    assert [task.id for task in sweep.grid(FAST)] == [task.id for task in tasks]
    assert {(task.values["n_gen"], task.values["seed"]) for task in tasks} == {(2, 0), (2, 1), (3, 0), (3, 1)}
    assert len(sweep.grid(["n_gen=4,4"])) == 1  # the same task twice is one task


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["n_gen"], "expected each KEY=VALUE"),
        (["n_gen=1", "n_gen=2"], "once"),
        (["job=abacus"], "expected one of bench"),
        (["job=perplexity", "threads=1"], "perplexity has no 'threads'"),
        (["n_gen=many"], "expected a number"),
        (["n_gen=-1"], "of at least 0"),
        (["model=tales"], "give n_prompt or n_gen"),
        (["n_prompt=64", "n_gen=32"], "not both: a task measures one of them"),
        (
            [f"round={','.join(map(str, range(400)))}", f"n_gen={','.join(map(str, range(1, 401)))}"],
            "at most",
        ),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(LlmliteError, match=message):
        sweep.grid(words)


def test_what_is_done_is_not_done_again_and_a_cut_off_result_is(tmp_path: Path) -> None:
    tasks = sweep.grid(FAST)
    assert sweep.here(tasks[:2], tmp_path) == 2
    first = tmp_path / f"{tasks[0].id}.json"
    whole = first.read_text()
    first.write_text(whole[:40])
    assert sweep.here(tasks, tmp_path) == 3
    found = {each["task"]: each for each in sweep.results(tmp_path)}
    assert set(found) == {task.id for task in tasks}
    assert found[tasks[0].id]["result"] == json.loads(whole)["result"]  # greedy: the same text again


def test_rounds_are_put_together_and_unlike_machines_never(tmp_path: Path) -> None:
    tasks = sweep.grid(["n_gen=8", "round=0,1,2"])
    kept = [
        result(tasks[0], "here", [10.0]),
        result(tasks[1], "here", [30.0]),
        result(tasks[2], "there", [99.0]),
    ]
    for each in kept:
        sweep.keep(tmp_path, each)
    rows = {row["env_hash"]: row for row in sweep.summary(sweep.results(tmp_path))}
    assert rows["here"]["tokens_per_second"] == 20.0 and rows["here"]["n_results"] == 2
    assert rows["there"]["tokens_per_second"] == 99.0 and rows["there"]["n_results"] == 1


def test_questions_asked_together_get_the_answers_that_each_gets_alone() -> None:
    import llmlite as ll
    from llmlite.resources import data_path

    lines = data_path("tales-questions.jsonl").read_text(encoding="utf-8").splitlines()[12:24]
    alone = ll.load("tales:Q4_0", n_threads=1)
    right = 0
    for record in map(json.loads, lines):
        text = "\n\n".join(filter(None, (" ".join(record["sentences"]), record["question"])))
        right += alone.chat(text, max_tokens=64, temperature=0).strip() == record["answer"]
    asked = sweep.run_task("questions", {"model": "tales:Q4_0", "n": 12, "round": 1})["result"]
    assert asked == {"n_exact": right, "n_asked": 12}


def test_texts_scored_together_have_the_perplexity_that_each_has_alone() -> None:
    import llmlite as ll
    from llmlite.resources import data_path

    text = data_path("tales-eval.txt").read_text(encoding="utf-8")
    texts = [text[start : start + n] for start, n in ((0, 40), (500, 300), (2000, 120), (9000, 700), (5, 9))]
    model = ll.load("tales:Q4_0", n_threads=1)
    assert list(model.perplexity(texts)) == [model.perplexity(each) for each in texts]


@pytest.mark.slow
def test_perplexity_and_questions_are_what_the_commands_measure() -> None:
    found = sweep.run_task("perplexity", {"model": "tales", "ctx_size": 256, "chunks": 4})
    assert 2 < found["result"]["perplexity"] < 4 and found["env_hash"]
    asked = sweep.run_task("questions", {"model": "tales", "n": 10, "round": 0})["result"]
    assert asked["n_asked"] == 10 and asked["n_exact"] >= 7
    timed = sweep.run_task("bench", sweep.grid(["n_gen=4", "repetitions=2"])[0].values)["result"]
    assert len(timed["samples_ts"]) == 2


def test_timed_tasks_of_one_machine_do_not_run_at_once() -> None:
    pytest.importorskip("fcntl", reason="this system has no file locks of this kind")
    code = (
        "import time; from llmlite.bench.sweep import _alone\n"
        "with _alone(): print('in', flush=True); time.sleep(0.5); print('out', flush=True)"
    )
    with sweep._alone():
        other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        time.sleep(1.0)
        assert other.poll() is None  # it waits
    assert other.communicate(timeout=30)[0].split() == ["in", "out"]


def _workers(pid: int) -> list[int]:
    """Return the processes below `pid` that Dask started for work."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
    below, waiting = [], [pid]
    while waiting:
        children = [child for child, parent in parents.items() if parent == waiting[0]]
        waiting = waiting[1:] + children
        below += children
    return [each for each in below if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


EIGHT = {  # job -> a grid of eight tasks, each long enough to be interrupted
    "questions": ["model=tales:Q4_0", "n=6", "round=0,1,2,3,4,5,6,7"],
    "perplexity": ["model=tales:Q4_0,tales:Q8_0", "ctx_size=64,128", "chunks=5,6"],
    "generate": ["model=tales:Q4_0", "n_gen=100", "seed=0,1,2,3,4,5,6,7", "temperature=0.8"],
    "bench": ["model=tales:Q4_0", "backend=llmlite-eager", "n_gen=2", "repetitions=2", "threads=1",
              "round=0,1,2,3,4,5,6,7"],
}  # fmt: skip


def _start(folder: Path, *more: str, job: str = "questions") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llmlite", "sweep", f"job={job}", *EIGHT[job], "-o", str(folder), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_for(folder: Path, n: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 90
    while len(list(folder.glob("*.json"))) < n:
        assert time.monotonic() < end and process.poll() is None, process.communicate(timeout=10)
        time.sleep(0.05)


def _finished(process: subprocess.Popen[str]) -> int:
    """Wait for a sweep to end well; return how many results its lines rest on."""
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    return sum(json.loads(line)["n_results"] for line in out.splitlines())


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


@pytest.mark.slow
@pytest.mark.parametrize("job", EIGHT)
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds workers by /proc")
def test_a_killed_worker_loses_nothing(job: str, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask isn't installed")
    process = _start(tmp_path, job=job)
    _wait_for(tmp_path, 1, process)
    kept = _content(tmp_path)
    workers = _workers(process.pid)
    assert workers and len(kept) < 8
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    assert _finished(process) == 8
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept


@pytest.mark.slow
def test_a_killed_command_with_its_scheduler_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask isn't installed")
    process = _start(tmp_path)  # its cluster's scheduler lives in this process
    _wait_for(tmp_path, 2, process)
    process.kill()
    process.communicate(timeout=30)
    kept = _content(tmp_path)
    assert 2 <= len(kept) < 8
    assert _finished(_start(tmp_path)) == 8
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept


@contextmanager
def _cluster(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and a worker in processes of their own, as on several machines: its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    run = [sys.executable, "-m"]
    scheduler = [*run, "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard"]
    worker = [*run, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    worker += ["--local-directory", str(folder), "--death-timeout", "10"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen(command, **quiet) for command in (scheduler, worker)]
    try:
        yield address, processes[0]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.slow
def test_a_killed_scheduler_of_several_machines_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask isn't installed")
    results = tmp_path / "results"
    with _cluster(tmp_path / "first") as (address, scheduler):
        process = _start(results, "--scheduler", address)
        _wait_for(results, 2, process)
        scheduler.kill()
        _, err = process.communicate(timeout=90)  # it ends, and doesn't wait for ever
        assert process.returncode == 2 and "run the same command again for the rest" in err
    kept = _content(results)
    assert 2 <= len(kept) < 8
    with _cluster(tmp_path / "second") as (address, _):
        assert _finished(_start(results, "--scheduler", address)) == 8
    assert {name: (results / name).read_bytes() for name in kept} == kept


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("distributed", reason="Dask isn't installed")
    words = ["sweep", "n_gen=2", "--scheduler", "tcp://127.0.0.1:9", "-o", str(tmp_path)]
    assert main(words) == 2
    assert "run the same command again for the rest" in capsys.readouterr().err


@pytest.mark.slow
def test_the_slurm_script_can_be_submitted_several_times_and_is_the_one_in_the_docs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue isn't installed")
    assert main(["sweep", "--slurm"]) == 0
    script = capsys.readouterr().out
    assert sweep.PLACE in script and "--name slurm-$SLURM_JOB_ID" in script and "127.0.0.1" not in script
    page = (Path(__file__).resolve().parents[2] / "docs/sweep.md").read_text(encoding="utf-8")
    assert script.replace(sys.executable, ".venv/bin/python").strip() in page
    assert main(["sweep", "--slurm", "--scheduler", "tcp://node7:9000"]) == 0
    assert "dask_worker tcp://node7:9000 --name" in capsys.readouterr().out


@pytest.mark.slow
def test_a_failed_task_is_one_sentence_without_a_traceback(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("distributed", reason="Dask isn't installed")
    assert main(["sweep", "n_gen=1000000", "-o", str(tmp_path)]) == 1
    err = capfd.readouterr().err
    assert "its context has 1024 tokens" in err and "Traceback" not in err
