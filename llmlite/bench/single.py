"""Measurements of one backend as in llama-bench: a list of tests, each repeated, and one record for each."""

from __future__ import annotations

import csv
import io
import json
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from llmlite.bench import energy, environment
from llmlite.bench.backends import by_name
from llmlite.bench.entries import Entry, Launcher
from llmlite.bench.inputs import agreement_ids, open_models
from llmlite.bench.process import BackendError
from llmlite.engine import cpu
from llmlite.errors import LlmliteError

DEPTHS = (0, 512, 2048)  # measured by default, if they fit in the context
FORMS = ("md", "csv", "json", "jsonl")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The tests to run.

    Attributes:
        model: a GGUF file, "tales" or "tales:Q4_0".
        backend: a key of BACKENDS.
        prompts: lengths of prompts to read; 0 for none.
        gens: numbers of tokens to write; 0 for none.
        depths: tokens in the cache before each test; empty for those of DEPTHS that fit in the context.
        threads: numbers of threads, each run in its own process; empty for as many as can run at once.
        repetitions: number of runs of each test, after one warm-up.
        timeout: seconds that any step may take.
    """

    model: str = "tales"
    backend: str = "llmlite"
    prompts: tuple[int, ...] = (512,)
    gens: tuple[int, ...] = (128,)
    depths: tuple[int, ...] = ()
    threads: tuple[int, ...] = ()
    repetitions: int = 5
    timeout: float = 600.0

    def __post_init__(self) -> None:
        by_name(self.backend)
        if self.repetitions < 1 or any(n < 1 for n in self.threads):
            raise ValueError("repetitions and threads must be at least 1")
        if any(n < 0 for n in (*self.prompts, *self.gens, *self.depths)):
            raise ValueError("lengths can't be negative")
        if not self.tests():
            raise ValueError("nothing to measure: give -p or -n a number above 0")

    def tests(self) -> list[tuple[int, int, int]]:
        """Return (n_prompt, n_gen, n_depth) of each test, in llama-bench's order."""
        pairs = [(n, 0) for n in self.prompts if n] + [(0, n) for n in self.gens if n]
        return [(p, n, d) for d in self.depths or (0,) for p, n in pairs]

    def fitting(self, n_ctx: int) -> Request:
        """Return the same request with depths; if it has none, those of DEPTHS that fit in `n_ctx` tokens."""
        longest = max(p + n for p, n, _ in self.tests()) + 1
        room = tuple(d for d in DEPTHS if d + longest <= n_ctx)
        return self if self.depths else replace(self, depths=room or (0,))


def measure(request: Request, progress: Callable[[str], None] = lambda _: None) -> list[dict[str, Any]]:
    """Run the tests and return one record for each, with llama-bench's fields.

    Not every library can be timed from the middle of a text. So the time of a prompt at a depth is a
    difference: the time of depth + prompt tokens minus the shortest time of depth tokens, each read into an
    empty cache. It is noisier than the time at depth 0. A test whose difference isn't above zero is left out
    with a warning.

    Energy is measured only where nothing but the test's own tokens is read or written: at depth 0.

    Args:
        request: the tests.
        progress: called with a description of each step before it is taken.

    Raises:
        LlmliteError: the backend isn't available or failed, the model can't be read, or every test was left
            out.
    """
    info = by_name(request.backend)
    if reason := info.unavailable():
        raise LlmliteError(f"{info.name}: {reason}")
    [file] = open_models(request.model, ())
    request = request.fitting(file.n_ctx)
    longest = max(p + n + d for p, n, d in request.tests()) + 1
    if longest > file.n_ctx:
        raise LlmliteError(f"{file.path.name}: its context has {file.n_ctx} tokens, but {longest} are needed")
    ids = agreement_ids(file, longest)
    records = []
    for threads in request.threads or (cpu.usable_threads(),):
        launcher = Launcher(
            n_threads=threads,
            n_ctx=longest,
            timeout=request.timeout,
            prompt=ids[:8],
            lengths=sorted({p + d for p, _, d in request.tests()} | {max(d, 1) for d in request.depths}),
        )
        with ExitStack() as stack:
            progress(f"start {info.name}, {threads} threads")
            entry = Entry(info, file)
            try:
                times = launcher.start(entry, stack)
                records += list(_tests(request, entry, ids, threads, times, progress))
            except BackendError as error:
                raise LlmliteError(str(error)) from error
    if not records:
        raise LlmliteError("nothing was measured: every test took less time than the noise; see the warnings")
    return records


def _tests(
    request: Request,
    entry: Entry,
    ids: Sequence[int],
    threads: int,
    times: dict[str, int],
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    env = environment.record(uuid.uuid4().hex[:12])
    meter = energy.Meter()
    for n_prompt, n_gen, n_depth in request.tests():
        progress(label(n_prompt, n_gen, n_depth))
        whole: list[int] = []
        before: list[int] = []
        steps: list[int] = []
        joules: list[float] = []
        only_its_own = n_depth <= (1 if n_gen else 0)  # otherwise energy would include the tokens before
        for repetition in range(request.repetitions + 1):
            meter.start()
            ns, before_ns, steps_ns = _once(entry, list(ids), n_prompt, n_gen, n_depth)
            used = meter.stop()
            if repetition:  # the first one warms up
                whole.append(ns)
                before.append(before_ns)
                steps += steps_ns
                joules += [used] if used is not None and only_its_own else []
        samples = [ns - min(before) for ns in whole]
        if min(samples) <= 0:
            warnings.warn(
                f"{label(n_prompt, n_gen, n_depth)}: left out: reading {n_depth + n_prompt} tokens took no "
                f"longer than reading {n_depth}; a longer prompt (-p) can be measured",
                stacklevel=2,
            )
            continue
        yield record(
            entry,
            samples,
            {"n_prompt": n_prompt, "n_gen": n_gen, "n_depth": n_depth, "n_threads": threads},
            env=env,
            steps_ns=steps,
            startup_ns=times,
            joules=joules,
            energy_note=meter.note or ("" if only_its_own else "-"),
        )


def _once(
    entry: Entry, ids: list[int], n_prompt: int, n_gen: int, n_depth: int
) -> tuple[int, int, list[int]]:
    """Run a test once.

    Returns:
        The nanoseconds of the whole, those of the tokens before the test if the whole includes them, and
        those of each step if the backend reports them.
    """
    if n_gen:
        answer = entry.ask("decode", ids=ids[: max(n_depth, 1)], n_gen=n_gen)
        return answer["samples_ns"][0], 0, answer["steps_ns"]
    whole = entry.ask("prefill", ids=ids[: n_depth + n_prompt])["samples_ns"][0]
    before = entry.ask("prefill", ids=ids[:n_depth])["samples_ns"][0] if n_depth else 0
    return whole, before, []


def record(
    entry: Entry, samples: Sequence[int], lengths: dict[str, int], *, env: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """Return the result of one test as a JSON object, with llama-bench's fields and ours.

    Args:
        entry: the backend and the file.
        samples: nanoseconds of each repetition.
        lengths: n_prompt, n_gen, n_depth and n_threads.
        env: the environment record.
        more: further fields.
    """
    n_tokens = lengths["n_prompt"] + lengths["n_gen"]
    speeds = [n_tokens * 1e9 / ns for ns in samples]
    return {
        "kind": "bench",
        "build_version": entry.about.get("version", env["packages"].get("llmlite-kit", "")),
        "cpu_info": env["cpu_info"],
        "backends": entry.info.name,
        **entry.file.as_record(),
        "type_k": entry.type_k,
        "type_v": entry.type_k,
        **lengths,
        "test_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "avg_ns": fmean(samples),
        "stddev_ns": stdev(samples) if len(samples) > 1 else 0.0,
        "avg_ts": fmean(speeds),
        "stddev_ts": stdev(speeds) if len(speeds) > 1 else 0.0,
        "samples_ns": list(samples),
        "samples_ts": speeds,
        "run_id": env["run_id"],
        "env_hash": env["env_hash"],
        "backend": entry.info.name,
        "isa": entry.about.get("isa", ""),
        "wait_policy": entry.about.get("wait_policy", ""),
        "own_quantization": entry.own_quantization,
        **more,
    }


def label(n_prompt: int, n_gen: int, n_depth: int) -> str:
    """Return llama-bench's name of a test, such as "pp512 @ d2048"."""
    name = f"pp{n_prompt}" if n_prompt else f"tg{n_gen}"
    return f"{name} @ d{n_depth}" if n_depth else name


def shown(records: Sequence[dict[str, Any]], form: str) -> str:
    """Return records as text.

    Args:
        records: results of `measure`, at least one.
        form: "md" (llama-bench's table), "csv", "json" or "jsonl".

    Raises:
        ValueError: the form is unknown.
    """
    if form == "md":
        return _markdown(records)
    if form == "json":
        return json.dumps(list(records), indent=2, allow_nan=False)
    if form == "jsonl":
        return "\n".join(json.dumps(each, allow_nan=False) for each in records)
    if form == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, list(records[0]), quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in each.items()}
            for each in records
        )
        return out.getvalue().rstrip("\n")
    raise ValueError(f"no form {form!r}; there are: {', '.join(FORMS)}")


def _markdown(records: Sequence[dict[str, Any]]) -> str:
    headings = ["model", "size", "params", "backend", "threads", "test", "t/s", "J/token"]
    rows = []
    for r in records:
        n_tokens = (r["n_prompt"] + r["n_gen"]) * len(r["joules"])
        rows.append(
            [
                f"{r['model_filename']} {r['model_type']}",
                f"{r['model_size'] / 2**20:.2f} MiB",
                f"{r['model_n_params'] / 1e6:.2f} M",
                r["backend"],
                str(r["n_threads"]),
                label(r["n_prompt"], r["n_gen"], r["n_depth"]),
                f"{r['avg_ts']:.2f} ± {r['stddev_ts']:.2f}",
                f"{sum(r['joules']) / n_tokens:.3g}" if n_tokens else r["energy_note"],
            ]
        )
    lines = [headings, [":--"] + ["--:"] * (len(headings) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
