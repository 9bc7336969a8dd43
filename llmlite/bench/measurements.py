"""All raw samples of a comparison: an object that holds them, and files with one JSON object per line.

Fields have llama-bench's names if it has such a field (n_prompt, n_gen, n_depth, samples_ns, avg_ts, ...), so
that its tools and ours can read each other's files. `run_id`, `block`, `backend`, `phase` and `env_hash` are
added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean, median, quantiles, stdev
from typing import Any, Self

from llmlite.bench import records
from llmlite.errors import ResultsError
from llmlite.system import files

_LISTS = frozenset(
    ("model", "backend", "agreement", "memory", "skipped", "note")
)  # kinds of records that are kept as plain lists
# The phases from the start of a process to its first token.
STARTING = ("start", "import", "load", "compile", "first_token")
NOISY = 0.10  # a measurement is noisy above this interquartile range over median, as in torch's Measurement


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The times of one phase of one backend in one block, with every repetition.

    Attributes:
        run_id: the run this belongs to.
        env_hash: hash of the environment it was taken in.
        backend: a name of `llmlite.bench.backends.BACKENDS`.
        model_type: the quantization of the file, such as "Q4_0".
        phase: "start", "import", "convert", "load", "compile", "first_token", "prefill" or "decode". All but
            the last two may end in "_cold", for a start that had to compile code which is then kept, or in
            "_ever", for a start with empty cache folders.
        block: number of the block; -1 outside the interleaved part.
        samples_ns: nanoseconds of each repetition.
        n_prompt, n_gen, n_depth: tokens of the prompt, tokens generated, tokens already in the cache
            (as in llama-bench).
        n_threads: threads that really ran if the system reports them, otherwise the number asked for.
        steps_ns: nanoseconds of every decode step, for plots of the series.
        type_k: type of the key/value cache: "f32", "bf16" or "f16".
        flagged: True if the block's canary drifted, so that this measurement isn't used.
        joules: energy that the whole machine used in this time; None if no counter can be read.
    """

    run_id: str
    env_hash: str
    backend: str
    model_type: str
    phase: str
    samples_ns: tuple[int, ...]
    block: int = -1
    n_prompt: int = 0
    n_gen: int = 0
    n_depth: int = 0
    n_threads: int = 0
    steps_ns: tuple[int, ...] = ()
    type_k: str = "f32"
    flagged: bool = False
    joules: float | None = None

    def __post_init__(self) -> None:
        if not self.samples_ns or min(self.samples_ns) <= 0:
            raise ValueError(
                f"{self.backend} {self.phase}: samples_ns must hold positive nanoseconds, "
                f"got {self.samples_ns!r}"
            )
        object.__setattr__(self, "samples_ns", tuple(self.samples_ns))
        object.__setattr__(self, "steps_ns", tuple(self.steps_ns))

    @property
    def n_tokens(self) -> int:
        """Number of tokens that one repetition processed or generated."""
        return self.n_prompt or self.n_gen

    @property
    def median_ns(self) -> float:
        return median(self.samples_ns)

    @property
    def tokens_per_second(self) -> float:
        """Median speed; 0.0 for a phase without tokens."""
        return self.n_tokens * 1e9 / self.median_ns

    @property
    def is_noisy(self) -> bool:
        """True if the spread of the middle half exceeds 10 % of the median."""
        return interquartile_range(self.samples_ns) > NOISY * self.median_ns

    def as_record(self) -> dict[str, Any]:
        """Return this measurement as a JSON object, with llama-bench's derived fields."""
        record: dict[str, Any] = {"kind": "measurement", **asdict(self)}
        record["samples_ns"], record["steps_ns"] = list(self.samples_ns), list(self.steps_ns)
        record["avg_ns"] = fmean(self.samples_ns)
        record["stddev_ns"] = stdev(self.samples_ns) if len(self.samples_ns) > 1 else 0.0
        if self.n_tokens:
            record["samples_ts"] = [self.n_tokens * 1e9 / ns for ns in self.samples_ns]
            record["avg_ts"] = fmean(record["samples_ts"])
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Measurement:
        """Rebuild a measurement from a JSON object; derived and unknown fields are ignored."""
        names = {f.name for f in fields(cls)}
        return cls(**{name: value for name, value in record.items() if name in names})


def interquartile_range(values: Sequence[float]) -> float:
    """Return the width of the middle half of `values`; 0.0 if there are fewer than two."""
    if len(values) < 2:
        return 0.0
    low, _, high = quantiles(values, n=4, method="inclusive")
    return high - low


@dataclass(kw_only=True, repr=False)
class Samples:
    """The data of one run of `compare`; `llmlite.bench.samples.Comparison` can also show it.

    Attributes:
        environment: one record of versions, CPU, quota and load, with `env_hash`.
        measurements: all timed phases.
        memory: one record per memory run and stage: backend, model_type, stage, repetition, and bytes by
            kind.
        agreement: one record per backend and type: top1, max_abs_diff, kl, agrees, reason.
        models: one record per file: model_type, model_filename, model_size (bytes), model_n_params.
        backends: one record per entry that started: version, isa, type_k, wait_policy, own_quantization,
            note.
        skipped: backends that didn't run, each with its reason.
        notes: sentences that a reader needs to understand the numbers.
    """

    environment: dict[str, Any]
    measurements: list[Measurement] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    agreement: list[dict[str, Any]] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    backends: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def records(self) -> list[dict[str, Any]]:
        """Return everything as JSON objects, the environment first."""
        shared = {"run_id": self.environment.get("run_id"), "env_hash": self.environment.get("env_hash")}
        lists: dict[str, list[dict[str, Any]]] = {
            "model": self.models,
            "backend": self.backends,
            "agreement": self.agreement,
            "memory": self.memory,
            "skipped": self.skipped,
            "note": [{"text": text} for text in self.notes],
        }
        out: list[dict[str, Any]] = [{"kind": "environment", **self.environment}]
        out += [{"kind": kind, **shared, **record} for kind, rows in lists.items() for record in rows]
        return out + [m.as_record() for m in self.measurements]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the records as JSON lines and return the path."""
        return write_jsonl(path, self.records())

    @classmethod
    def from_records(cls, items: Iterable[Mapping[str, Any]], *, places: Sequence[str] | None = None) -> Self:
        """Check each JSON object of a comparison and rebuild the comparison from them.

        Args:
            items: the JSON objects.
            places: origin of each record for error messages; None for "record 1" and so on.

        Raises:
            ResultsError: a record is invalid, or there is no environment record.
        """
        by_kind: dict[str, list[dict[str, Any]]] = {}
        for number, record in enumerate(items):
            records.check(record, places[number] if places else f"record {number + 1}")
            shared = ("kind", "run_id", "env_hash") if record["kind"] in _LISTS else ("kind",)
            rest = {key: value for key, value in record.items() if key not in shared}
            by_kind.setdefault(record["kind"], []).append(rest)
        if "environment" not in by_kind:
            raise ResultsError("no environment record: these lines weren't written by llmlite compare")
        return cls(
            environment=by_kind["environment"][0],
            measurements=[Measurement.from_record(r) for r in by_kind.get("measurement", [])],
            memory=by_kind.get("memory", []),
            agreement=by_kind.get("agreement", []),
            models=by_kind.get("model", []),
            backends=by_kind.get("backend", []),
            skipped=by_kind.get("skipped", []),
            notes=[r["text"] for r in by_kind.get("note", [])],
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote.

        Raises:
            ResultsError: a record is invalid. The message names the file, the line, the field, the expected
                value and the actual one.
            OSError: the file can't be read.
        """
        lines = _read_lines(path)
        try:
            found = cls.from_records([record for _, record in lines], places=[place for place, _ in lines])
        except ResultsError as error:
            text = str(error)
            raise error if text.startswith(str(path)) else ResultsError(f"{path}: {text}") from None
        records.check_size(len(found.entries()), os.fspath(path))
        return found

    def of_types(self, types: Sequence[str]) -> Self:
        """Return the part of this comparison that is about `types`, as if no others had been compared."""

        def kept(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [row for row in rows if row.get("model_type", types[0]) in types]

        return replace(
            self,
            measurements=[m for m in self.measurements if m.model_type in types],
            memory=kept(self.memory),
            agreement=kept(self.agreement),
            models=kept(self.models),
            backends=kept(self.backends),
            skipped=kept(self.skipped),
        )

    def entries(self) -> list[tuple[str, str]]:
        """Return the (backend, model_type) pairs that were measured, in order of first appearance."""
        pairs = [(m.backend, m.model_type) for m in self.measurements]
        pairs += [(r["backend"], r["model_type"]) for r in self.agreement]
        return list(dict.fromkeys(pairs))


def write_jsonl(path: str | os.PathLike[str], items: Iterable[Mapping[str, Any]]) -> Path:
    """Write one JSON object per line, atomically (temporary name, then rename)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record, allow_nan=False) for record in items]
    files.write_text(path, "\n".join(lines) + "\n")
    return path


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read JSON lines.

    Raises:
        ResultsError: a line isn't a JSON object; the message names the file and the line.
        OSError: the file can't be read.
    """
    return [record for _, record in _read_lines(path)]


def _read_lines(path: str | os.PathLike[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return the objects in a file of JSON lines, each with its place: "FILE, line N"."""
    lines = records.read_text(Path(path)).split("\n")  # not splitlines: a text may hold a U+2028
    places = [f"{os.fspath(path)}, line {number}" for number in range(1, len(lines) + 1)]
    return [(place, records.parse(line, place)) for place, line in zip(places, lines) if line.strip()]
