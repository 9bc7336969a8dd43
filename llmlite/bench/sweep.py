"""Many measurements on one or several machines: a grid of tasks that Dask distributes.

Every result is a separate file in the output folder, named after its task and written atomically. So a
worker, the scheduler or this process may end at any moment. Finished results are kept, and the same command
continues with the rest. A result contains the environment in which it was taken, and `summary` never pools
results of different machines. A timed task holds its machine's lock, so that only one of them runs there at a
time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from llmlite import resources
from llmlite.errors import LlmliteError
from llmlite.system import files

# The keys of a grid that each kind of task takes, with their defaults.
KINDS: dict[str, dict[str, Any]] = {
    "bench": {
        "model": "tales",
        "backend": "llmlite",
        "threads": 0,
        "n_prompt": 0,
        "n_gen": 0,
        "n_depth": 0,
        "repetitions": 5,
        "round": 0,
    },
    "perplexity": {"model": "tales", "ctx_size": 256, "chunks": 4},
    "questions": {"model": "tales", "n": 20, "round": 0},
    "generate": {"model": "tales", "prompt": "Once", "n_gen": 32, "seed": 0, "temperature": 0.0},
}
TIMED = frozenset({"bench"})
NUMBERS = frozenset("threads n_prompt n_gen n_depth repetitions round ctx_size chunks n seed".split())
MAX_TASKS = 100_000
PLACE = "tcp://HOST:8786"  # a placeholder for a scheduler's address


@dataclass(frozen=True, kw_only=True)
class Task:
    """One measurement.

    Attributes:
        kind: a key of KINDS.
        values: all arguments of the task.
    """

    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Name of the task, which is the same on every machine and at any time."""
        text = json.dumps([self.kind, dict(self.values)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def grid(words: Iterable[str]) -> list[Task]:
    """Return a task for each combination of the values in a grid.

    Args:
        words: the grid, such as ["job=bench", "model=tales:Q4_0,tales:Q8_0", "n_gen=32"].

    Raises:
        LlmliteError: a word isn't KEY=VALUES, the kind of task doesn't have the key, a value is invalid, or
            there are too many tasks.
    """
    given: dict[str, list[str]] = {}
    for word in words:
        key, equals, values = word.partition("=")
        if not equals or not values or key in given:
            raise LlmliteError(f"expected each KEY=VALUE,VALUE once, got {word!r}")
        given[key] = [values] if key == "prompt" else values.split(",")
    [kind, *more] = given.pop("job", ["bench"])
    if more or kind not in KINDS:
        raise LlmliteError(f"job: expected one of {', '.join(KINDS)}, got {','.join([kind, *more])!r}")
    unknown = given.keys() - KINDS[kind].keys()
    if unknown:
        raise LlmliteError(f"{kind} has no {sorted(unknown)[0]!r}; there are: {', '.join(KINDS[kind])}")
    choices = {key: [_value(key, text) for text in texts] for key, texts in given.items()}
    n = 1
    for values_of in choices.values():
        n *= len(values_of)
    if n > MAX_TASKS:
        raise LlmliteError(f"{n} tasks; at most {MAX_TASKS} are allowed")
    found = {
        task.id: task
        for picked in itertools.product(*choices.values())
        for task in [Task(kind=kind, values=KINDS[kind] | dict(zip(choices, picked)))]
    }
    for task in found.values():
        if kind == "bench" and bool(task.values["n_prompt"]) == bool(task.values["n_gen"]):
            raise LlmliteError(
                "bench: give n_prompt or n_gen a number above 0, not both: a task measures one of them"
            )
    return list(found.values())


def _value(key: str, text: str) -> Any:
    try:
        if key in NUMBERS:
            return _not_negative(int(text))
        return _not_negative(float(text)) if key == "temperature" else text
    except ValueError:
        raise LlmliteError(f"{key}: expected a number of at least 0, got {text!r}") from None


def _not_negative(number: Any) -> Any:
    if not 0 <= number < 2**31:
        raise ValueError
    return number


# --- one task, in any process ----------------------------------------------------------------


def run_task(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Run one task in this process and return its result with the environment.

    Args:
        kind: a key of KINDS.
        values: arguments of the task.
    """
    from llmlite.bench import environment

    begin = time.time()
    with _alone() if kind in TIMED else nullcontext():
        result = WORK[kind](**values)
    env = environment.record()
    return {
        "task": Task(kind=kind, values=values).id,
        "kind": kind,
        "values": dict(values),
        "env_hash": env["env_hash"],
        "environment": env,
        "seconds": round(time.time() - begin, 3),
        "result": result,
    }


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the machine's lock for timed tasks; the system releases it if the process dies."""
    folder = resources.cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "timed-task.lock", "w") as file:
        try:
            import fcntl
        except ImportError:  # Windows has no such lock: use one worker per machine, which is the default
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _bench(
    model: str,
    backend: str,
    threads: int,
    n_prompt: int,
    n_gen: int,
    n_depth: int,
    repetitions: int,
    **_: Any,
) -> dict[str, Any]:
    from llmlite.bench import single

    request = single.Request(
        model=model,
        backend=backend,
        prompts=(n_prompt,) if n_prompt else (),
        gens=(n_gen,) if n_gen else (),
        depths=(n_depth,),
        threads=(threads,) if threads else (),
        repetitions=max(repetitions, 1),
    )
    return single.measure(request)[0]


def _perplexity(model: str, ctx_size: int, chunks: int) -> dict[str, Any]:
    from llmlite.bench.quality import perplexity
    from llmlite.model import load

    opened = load(model)
    text = resources.data_path("tales-eval.txt").read_text(encoding="utf-8")
    ids = opened.tokenizer.encode(text, add_special=False)[: ctx_size * chunks]
    bos = opened.tokenizer.bos_id if opened.tokenizer.add_bos else None
    found = perplexity(opened.logits, ids, n_ctx=ctx_size, bos_id=bos)
    return {"perplexity": found.value, "standard_error": found.standard_error, "n_tokens": found.n_tokens}


def _questions(model: str, n: int, round: int) -> dict[str, Any]:
    """Ask `n` of the bundled questions together, starting at round * n; count the exact answers."""
    from llmlite.model import load

    lines = resources.data_path("tales-questions.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines[round * n : (round + 1) * n]]
    opened = load(model)
    asked = [
        "\n\n".join([*([" ".join(record["sentences"])] if record["sentences"] else []), record["question"]])
        for record in records
    ]
    prompts = [opened.chat_prompt(question) for question in asked]
    answers = opened.generate_batch(prompts, max_tokens=64, temperature=0.0)
    right = sum(found.strip() == record["answer"] for found, record in zip(answers, records))
    return {"n_exact": right, "n_asked": len(records)}


def _generate(model: str, prompt: str, n_gen: int, seed: int, temperature: float) -> dict[str, Any]:
    from llmlite.model import load

    found = load(model).generate(prompt, max_tokens=n_gen, temperature=temperature, seed=seed)
    return {"text": str(found)}


WORK: dict[str, Callable[..., dict[str, Any]]] = {
    "bench": _bench,
    "perplexity": _perplexity,
    "questions": _questions,
    "generate": _generate,
}


# --- the results ----------------------------------------------------------------------------------


def keep(folder: Path, result: Mapping[str, Any]) -> None:
    """Write a result as a separate file, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / f"{result['task']}.json", json.dumps(result, allow_nan=False) + "\n")


def results(folder: Path) -> list[dict[str, Any]]:
    """Return the results in a folder; incomplete files are ignored, so that their tasks are run again."""
    out = []
    for path in sorted(folder.glob("*.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["task"] == path.stem and isinstance(found["result"], dict) and found["env_hash"]:
                out.append(found)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return out


def summary(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Pool the results of each machine that differ only in their round; return one row for each pool."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for each in found:
        values = {key: value for key, value in each["values"].items() if key != "round"}
        groups.setdefault(json.dumps([each["env_hash"], each["kind"], values], sort_keys=True), []).append(
            each
        )
    out = []
    for key, members in groups.items():
        env_hash, kind, values = json.loads(key)
        row: dict[str, Any] = {"env_hash": env_hash, "kind": kind, "n_results": len(members), **values}
        rows = [member["result"] for member in members]
        if kind == "bench":
            row["tokens_per_second"] = median(s for r in rows for s in r["samples_ts"])
        elif kind == "questions":
            row["n_exact"] = sum(r["n_exact"] for r in rows)
            row["n_asked"] = sum(r["n_asked"] for r in rows)
        else:
            row |= rows[-1]
        out.append(row)
    return out


# --- distributing the tasks ------------------------------------------------------------------------


def run(
    tasks: Sequence[Task],
    folder: Path,
    *,
    scheduler: str = "",
    n_workers: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[int, list[str]]:
    """Run the tasks that have no result yet; return the number of finished ones and a sentence per failure.

    Args:
        tasks: all tasks.
        folder: folder of the results.
        scheduler: an address such as tcp://host:8786; "" starts a cluster on this machine.
        n_workers: number of workers in that cluster; tasks that aren't timed run side by side.
        progress: called with sentences on the progress.

    Raises:
        LlmliteError: Dask isn't installed, or the scheduler can't be reached. Finished results are kept, and
            the same call continues with the rest.
    """
    done = {each["task"] for each in results(folder)}
    waiting = [task for task in tasks if task.id not in done]
    if not waiting:
        return 0, []
    try:
        from distributed import as_completed
    except ImportError:
        raise LlmliteError("sweep needs Dask: pip install 'llmlite-kit[dask]'") from None
    finished, failed = 0, []
    try:
        with _client(scheduler, n_workers) as client:
            futures = {
                client.submit(run_task, t.kind, dict(t.values), key=f"llmlite-{t.id}", pure=False): t
                for t in waiting
            }
            progress(f"{len(waiting)} of {len(tasks)} tasks to do")
            for future in as_completed(futures):
                task = futures[future]
                if future.status == "finished":
                    keep(folder, future.result())
                    finished += 1
                    progress(f"{finished} of {len(waiting)} tasks done")
                elif future.status in ("cancelled", "lost"):
                    raise ConnectionError(f"{future.status} before it was done")
                else:
                    failed.append(f"{task.kind} {_shown(task)}: {future.exception()}")
    except (OSError, TimeoutError, RuntimeError) as error:
        where = scheduler or "the cluster on this machine"
        raise LlmliteError(
            f"{where} can't be reached or went away ({error or type(error).__name__}); {finished} of "
            f"{len(waiting)} tasks are done and kept in {folder}; run the same command again for the rest"
        ) from error
    return finished, failed


@contextmanager
def _client(scheduler: str, n_workers: int) -> Iterator[Any]:
    """Connect to the scheduler, or to a new cluster on this machine, while the block runs."""
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        cluster = None
        if not scheduler:
            cluster = LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,  # a failed task is reported in a sentence, without a traceback
            )
            stack.callback(_close, cluster)
        client = Client(cluster or scheduler, timeout="10s")
        stack.callback(_close, client)
        yield client


def _close(connection: Any) -> None:
    with suppress(Exception):
        connection.close(timeout=5)


def _shown(task: Task) -> str:
    return " ".join(f"{key}={value}" for key, value in task.values.items())


def job_script(scheduler: str = "", *, memory: str = "4GB", walltime: str = "01:00:00") -> str:
    """Return the script with which dask-jobqueue asks SLURM for a worker; SLURM needn't be installed.

    The script may be submitted several times, because each worker is named after its job.

    Args:
        scheduler: address of a running scheduler; "" for a placeholder.
        memory: memory of a worker, as dask-jobqueue takes it.
        walltime: longest time of a job.

    Raises:
        LlmliteError: dask-jobqueue isn't installed.
    """
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise LlmliteError("the script needs dask-jobqueue: pip install dask-jobqueue") from None
    cluster = SLURMCluster(
        cores=1, processes=1, memory=memory, walltime=walltime,
        scheduler_options={"dashboard_address": None},
    )  # fmt: skip
    try:
        script = str(cluster.job_script())
    finally:
        cluster.close(timeout=5)
    # Two replacements: its own scheduler exists only in this process, and no scheduler accepts two workers of
    # the same name.
    script = re.sub(r"tcp://\S+", lambda _: scheduler or PLACE, script)
    return re.sub(r"--name \S+", "--name slurm-$SLURM_JOB_ID", script)


def here(tasks: Iterable[Task], folder: Path) -> int:
    """Run the tasks that have no result yet in this process, without Dask; return their number."""
    done = {each["task"] for each in results(folder)}
    n = 0
    for task in tasks:
        if task.id not in done:
            keep(folder, run_task(task.kind, task.values))
            n += 1
    return n


__all__ = ["KINDS", "Task", "grid", "here", "job_script", "keep", "results", "run", "run_task", "summary"]
