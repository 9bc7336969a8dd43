"""Turn raw samples into comparable numbers: medians, spreads, and ratios with their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from llmlite.bench.backends import BACKENDS
from llmlite.bench.measurements import Measurement, Samples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DRIFT = 0.05  # a block whose canary is further than this from the median canary is flagged
MARGIN = 0.03  # smaller differences get no verdict
MIN_BLOCKS = 5  # with fewer, a bootstrap interval is too narrow for a verdict
N_RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One quantity to compare.

    Attributes:
        key: its name in METRICS.
        short: name for buttons.
        title: name for axes and tables, with the unit.
        more_is_better: whether a larger value is better.
        phase, n_prompt: select the measurements that it is based on. The phase is "" for energy, memory, size
            and quality.
        deep: if there are several depths, take the fullest cache instead of the emptiest.
        live: whether it differs from run to run (time, memory), so that no test can compare it.
    """

    key: str
    short: str
    title: str
    more_is_better: bool
    phase: str = ""
    n_prompt: int = 0
    deep: bool = False
    live: bool = True


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One metric of one backend and type.

    Attributes:
        backend: a name of BACKENDS.
        model_type: quantization of the file.
        values: one number per block, or per repetition outside the blocks, in the metric's unit.
        value: the median of the values.
        low, high: their quartiles.
    """

    backend: str
    model_type: str
    values: tuple[float, ...]
    value: float
    low: float
    high: float

    @property
    def label(self) -> str:
        """Name of the entry for axes: the backend's title and the quantization."""
        return entry_label(self.backend, self.model_type)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The ratio of two entries' speeds, with a 95 % interval from a bootstrap over blocks.

    Attributes:
        value: median of the ratios within blocks; above 1 if the first entry is faster.
        low, high: ends of the interval.
        n_blocks: number of blocks that it is based on.
        verdict: "faster", "slower", "about equal" or "can't tell".
    """

    value: float
    low: float
    high: float
    n_blocks: int
    verdict: str

    def __str__(self) -> str:
        if self.n_blocks < MIN_BLOCKS:  # an interval from so few blocks would look more certain than it is
            return f"{self.value:.2f}x in {self.n_blocks} block{'s'[: self.n_blocks > 1]}, {self.verdict}"
        return f"{self.value:.2f}x ({self.low:.2f} to {self.high:.2f}), {self.verdict}"


METRICS = {
    metric.key: metric
    for metric in (
        Metric(
            key="decode",
            short="decode",
            title="decode, tokens per second",
            more_is_better=True,
            phase="decode",
        ),
        Metric(
            key="decode_deep",
            short="decode, long text",
            title="decode after a long text, tokens per second",
            more_is_better=True,
            phase="decode",
            deep=True,
        ),
        Metric(
            key="prefill64",
            short="prefill 64",
            title="prefill of 64 tokens, tokens per second",
            more_is_better=True,
            phase="prefill",
            n_prompt=64,
        ),
        Metric(
            key="prefill",
            short="prefill, long",
            title="prefill of a long prompt, tokens per second",
            more_is_better=True,
            phase="prefill",
        ),
        Metric(
            key="start",
            short="start",
            title="interpreter start, seconds",
            more_is_better=False,
            phase="start",
        ),
        Metric(key="import", short="import", title="import, seconds", more_is_better=False, phase="import"),
        Metric(key="load", short="load", title="load, seconds", more_is_better=False, phase="load"),
        Metric(
            key="compile",
            short="compile",
            title="compile, seconds",
            more_is_better=False,
            phase="compile",
        ),
        Metric(
            key="first_token",
            short="first token",
            title="first token after loading, seconds",
            more_is_better=False,
            phase="first_token",
        ),
        Metric(key="private", short="private memory", title="private memory, MB", more_is_better=False),
        Metric(key="file", short="file-backed memory", title="file-backed memory, MB", more_is_better=False),
        Metric(key="peak", short="peak memory", title="peak memory, MB", more_is_better=False),
        Metric(
            key="energy", short="energy", title="energy of decode, joules per token", more_is_better=False
        ),
        Metric(key="size", short="file size", title="model file, MB", more_is_better=False, live=False),
        Metric(
            key="kl",
            short="quality loss",
            title="KL divergence from float32, nats",
            more_is_better=False,
            live=False,
        ),
    )
}


def entry_label(backend: str, model_type: str) -> str:
    """Return the name of an entry in tables and figures."""
    title = BACKENDS[backend].title if backend in BACKENDS else backend
    return f"{title} {model_type}"


def summarize(comparison: Samples, metric: str) -> list[Summary]:
    """Return one Summary per backend and type that has the metric, in the comparison's order.

    Args:
        comparison: the samples.
        metric: a key of METRICS.

    Raises:
        ValueError: the metric is unknown; the message lists the known ones.
    """
    if metric not in METRICS:
        raise ValueError(f"no metric {metric!r}; there are: {', '.join(METRICS)}")
    found = METRICS[metric]
    values_of = _timed if found.phase else _FIELDS[metric]
    out = []
    for backend, model_type in comparison.entries():
        values = values_of(comparison, found, backend, model_type)
        if values:
            low, high = np.percentile(values, [25, 75])
            out.append(
                Summary(
                    backend=backend,
                    model_type=model_type,
                    values=tuple(values),
                    value=median(values),
                    low=float(low),
                    high=float(high),
                )
            )
    return out


def selected(comparison: Samples, metric: Metric, backend: str, model_type: str) -> list[Measurement]:
    """Return the measurements of an entry that a metric is based on; flagged ones are left out."""
    rows = [
        m
        for m in comparison.measurements
        if (m.backend, m.model_type, m.phase) == (backend, model_type, metric.phase) and not m.flagged
    ]
    if metric.phase == "prefill" and rows:
        wanted = metric.n_prompt or max(m.n_prompt for m in rows)
        return [m for m in rows if m.n_prompt == wanted]
    if metric.phase == "decode" and rows:
        depths = [m.n_depth for m in rows]
        wanted = max(depths) if metric.deep else min(depths)
        return [m for m in rows if m.n_depth == wanted]
    return rows


def _timed(comparison: Samples, metric: Metric, backend: str, model_type: str) -> list[float]:
    rows = selected(comparison, metric, backend, model_type)
    return [m.tokens_per_second if m.n_tokens and metric.more_is_better else m.median_ns / 1e9 for m in rows]


def _memory(key: str) -> Callable[[Samples, Metric, str, str], list[float]]:
    def values(comparison: Samples, metric: Metric, backend: str, model_type: str) -> list[float]:
        return [
            r[key] / 1e6
            for r in comparison.memory
            if (r["backend"], r["model_type"], r["stage"]) == (backend, model_type, "decode")
            and r.get(key) is not None
        ]

    return values


def _size(comparison: Samples, metric: Metric, backend: str, model_type: str) -> list[float]:
    return [m["model_size"] / 1e6 for m in comparison.models if m["model_type"] == model_type]


def _energy(comparison: Samples, metric: Metric, backend: str, model_type: str) -> list[float]:
    return [
        m.joules / m.n_gen
        for m in selected(comparison, METRICS["decode"], backend, model_type)
        if m.joules and m.n_gen
    ]


def _kl(comparison: Samples, metric: Metric, backend: str, model_type: str) -> list[float]:
    return [
        r["kl"]
        for r in comparison.agreement
        if (r["backend"], r["model_type"]) == (backend, model_type) and r.get("kl") is not None
    ]


_FIELDS = {
    "private": _memory("private_bytes"),
    "file": _memory("file_bytes"),
    "peak": _memory("peak_bytes"),
    "energy": _energy,
    "size": _size,
    "kl": _kl,
}


def ratio(comparison: Samples, metric: str, entry: tuple[str, str], base: tuple[str, str]) -> Ratio | None:
    """Return the speed of `entry` over that of `base`, from the blocks that have both.

    The result is None if there are no such blocks.

    Args:
        comparison: the samples.
        metric: a key of METRICS whose measurements come in blocks.
        entry, base: (backend, model_type).
    """
    found = METRICS[metric]
    ours = {m.block: m.median_ns / m.n_tokens for m in selected(comparison, found, *entry) if m.n_tokens}
    theirs = {m.block: m.median_ns / m.n_tokens for m in selected(comparison, found, *base) if m.n_tokens}
    blocks = sorted(ours.keys() & theirs.keys() - {-1})
    if not blocks:
        return None
    return of_ratios([theirs[block] / ours[block] for block in blocks])


def of_ratios(ratios: Sequence[float]) -> Ratio:
    """Return the median of one or more ratios within blocks, with its interval and the verdict."""
    low, high = bootstrap_interval(ratios)
    called = verdict(low, high, len(ratios))
    return Ratio(value=median(ratios), low=low, high=high, n_blocks=len(ratios), verdict=called)


def bootstrap_interval(values: Sequence[float], *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the median (Efron 1979).

    Args:
        values: the sample, at least one number.
        level: share of the distribution that the interval covers.
        seed: seed of the resampling; the same seed gives the same interval.
    """
    array = np.asarray(values, float)
    draws = np.random.default_rng(seed).choice(array, (N_RESAMPLES, len(array)))
    low, high = np.percentile(np.median(draws, axis=1), [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def verdict(low: float, high: float, n_blocks: int) -> str:
    """Return "faster", "slower", "about equal" or "can't tell".

    A difference is established if the whole interval is more than 3 % above or below 1, and if there are at
    least five blocks.

    Args:
        low, high: interval of the ratio.
        n_blocks: number of blocks that it is based on.
    """
    if n_blocks < MIN_BLOCKS:
        return "can't tell"
    if low > 1 + MARGIN:
        return "faster"
    if high < 1 - MARGIN:
        return "slower"
    if low >= 1 - MARGIN and high <= 1 + MARGIN:
        return "about equal"
    return "can't tell"


def drifted(canaries: Sequence[float]) -> list[bool]:
    """Return, for each block, whether its canary is more than 5 % from the median canary."""
    if not canaries:
        return []
    middle = median(canaries)
    return [abs(value / middle - 1) > DRIFT for value in canaries]
