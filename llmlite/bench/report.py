"""A comparison as tables for a terminal or a notebook, and as sentences that describe its figures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import median
from typing import Any

from llmlite.bench.backends import BACKENDS
from llmlite.bench.measurements import STARTING, Samples
from llmlite.bench.summary import MARGIN, METRICS, Summary, entry_label, ratio, selected, summarize
from llmlite.terminal import printable

Table = tuple[str, list[str], list[list[str]]]  # title, headings, rows of cells
NOTHING = "-"
PROSE = ("agrees", "instructions")  # columns of words, which are aligned to the left
AGREEMENT_FORMATS = {  # key of a record of agreement -> format of its number, in the order of the columns
    "max_abs_diff": ".1e",
    "same_file_top1": ".1%",
    "kl": ".1e",
    "top1": ".1%",
    "perplexity": ".4g",
    "n_tokens": "d",
}
EXACT = ("size",)  # metrics that are the same in every run, so that any difference counts


def tables(comparison: Samples) -> str:
    """Return all tables and notes as text for a terminal, about 110 columns wide at most."""
    parts = [headline(comparison), *(_text(*table) for table in all_tables(comparison) if table[2])]
    notes = "\n".join(f"note: {note}" for note in comparison.notes)
    return printable("\n\n".join([*parts, notes] if notes else parts))


def titled(comparison: Samples) -> str:
    """Return a heading that names the model and its types, such as "smollm2 in Q8_0, Q4_0"."""
    types = ", ".join(r["model_type"] for r in comparison.models)
    return f"{comparison.environment.get('model', 'one model')} in {types or 'no type'}"


def canary_words(comparison: Samples) -> str:
    """Return words on the canary, which show how quiet the machine was; "" if the canary never ran."""
    sung = comparison.environment.get("canary_ns") or []
    if not sung:
        return ""
    return f"the canary's slowest block {max(sung) / min(sung) - 1:.0%} slower than its fastest"


def markdown(comparison: Samples) -> str:
    """Return all tables and notes as Markdown, for other documents."""
    parts = [headline(comparison) + "."]
    for title, headings, rows in all_tables(comparison):
        if rows:
            marks = [":--", *["--:"] * (len(headings) - 1)]
            if headings[-1] in PROSE:
                marks[-1] = ":--"
            lines = ["| " + " | ".join(map(_md_cell, cells)) + " |" for cells in (headings, marks, *rows)]
            parts += [title, "\n".join(lines)]
    notes = "\n".join(f"- {printable(note)}" for note in comparison.notes)
    return "\n\n".join([*parts, notes] if notes else parts)


def _md_cell(cell: str) -> str:
    return printable(cell).replace("|", "\\|").replace("\n", " ")


def html(comparison: Samples) -> str:
    """Return all tables and notes as HTML for a notebook."""
    parts = [f"<p>{escape(headline(comparison))}</p>"]
    for title, headings, rows in all_tables(comparison):
        if rows:
            head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in headings)
            body = "".join(
                f'<tr><th scope="row">{escape(first)}</th>' + _cells(rest) + "</tr>" for first, *rest in rows
            )
            parts.append(
                f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead>"
                f"<tbody>{body}</tbody></table>"
            )
    parts += [f"<p>Note: {escape(note)}</p>" for note in comparison.notes]
    return "".join(parts)


def _cells(cells: list[str]) -> str:
    return "".join(f"<td>{escape(cell)}</td>" for cell in cells)


def headline(comparison: Samples) -> str:
    """Return one line that describes the comparison and the machine."""
    env = comparison.environment
    n_blocks = len({m.block for m in comparison.measurements if m.block >= 0})
    quiet = canary_words(comparison)
    return (
        f"{env.get('cpu_info', 'unknown processor')}, {env.get('n_threads', '?')} threads, "
        f"{n_blocks} interleaved blocks, {quiet + ', ' if quiet else ''}run {env.get('run_id', '?')}"
    )


def all_tables(comparison: Samples) -> list[Table]:
    """Return the tables: agreement, speed, starts, depths, memory, and the conditions of each backend."""
    return [
        agreement_table(comparison),
        speed_table(comparison),
        start_table(comparison),
        depth_table(comparison),
        memory_table(comparison),
        conditions_table(comparison),
    ]


def agreement_table(comparison: Samples) -> Table:
    """Return the table of agreement and of the loss of quality by quantization."""
    answered = any(r.get("n_asked") for r in comparison.agreement)
    rows = [_agreement_row(r, answered) for r in comparison.agreement]
    n_numbers = len(AGREEMENT_FORMATS) + answered
    rows += [
        [_skipped_label(r), *[NOTHING] * n_numbers, f"not run: {r['reason']}"] for r in comparison.skipped
    ]
    best = comparison.models[0]["model_type"] if comparison.models else "the first file"
    return (
        "Do they compute the same? Same file in float32: largest logit difference, equal best tokens. "
        f"{best} in float32: KL, equal best tokens. Perplexity and its number of tokens."
        + (" Exact answers to bundled questions, of those asked in time." if answered else ""),
        [
            "",
            "max diff",
            "same top",
            "KL nats",
            "top vs f32",
            "perpl.",
            "tokens",
            *["exact"] * answered,
            "agrees",
        ],
        rows,
    )


def _agreement_row(r: dict[str, Any], answered: bool) -> list[str]:
    """Return a row of the table; answered: whether the table has a column of exact answers."""
    numbers = [
        format(r[key], form) if r.get(key) is not None else NOTHING for key, form in AGREEMENT_FORMATS.items()
    ]
    if answered:
        numbers.append(f"{r.get('n_exact', 0)}/{r['n_asked']}" if r.get("n_asked") else NOTHING)
    yes = "own quantization" if r.get("own_quantization") else "yes" if "kl" in r else "yes, by its tokens"
    verdict = yes if r["agrees"] else f"NO, not timed: {r['reason']}"
    return [entry_label(r["backend"], r["model_type"]), *numbers, verdict]


def _skipped_label(record: dict[str, Any]) -> str:
    return entry_label(record["backend"], record.get("model_type", "")).strip()


def speed_table(comparison: Samples) -> Table:
    """Return the table of speeds: medians over blocks, decode's middle half, and its ratio to the base."""
    base = base_entry(comparison)
    found = {
        key: _by_entry(comparison, key)
        for key in ("import", "load", "compile", "first_token", "prefill64", "prefill", "decode", "energy")
    }
    metered = bool(found["energy"])
    starts = [key for key in ("import", "load", "compile", "first_token") if found[key] or key != "compile"]
    lengths = sorted({m.n_prompt for m in comparison.measurements if m.phase == "prefill"})
    short = ["prefill 64"] if 64 in lengths[:-1] else []  # otherwise it wasn't run, or is the longest prompt
    rows = []
    for entry in found["decode"]:
        long_prompt, decode = found["prefill"].get(entry), found["decode"][entry]
        against = ratio(comparison, "decode", entry, base) if base and entry != base else None
        rows.append(
            [
                decode.label,
                *(_number(found[key].get(entry), ".2f") for key in starts),
                *([_number(found["prefill64"].get(entry), ".0f")] if short else []),
                _number(long_prompt, ".0f"),
                _spread(decode),
                str(against) if against else "the base" if entry == base else NOTHING,
                *([_number(found["energy"].get(entry), ".3g")] if metered else []),
                threads_that_ran(comparison, entry),
            ]
        )
    return (
        "Speed, medians: seconds to import, load and first token; tokens per second in prefill and "
        "decode (middle half of the blocks); ratio of decode speeds (95 % interval).",
        [
            "",
            *(key.removesuffix("_token") for key in starts),
            *short,
            *(f"prefill {lengths[-1]}" if lengths else "prefill", "decode", "decode against base"),
            *["J/token"] * metered,
            "threads",
        ],
        rows,
    )


def start_table(comparison: Samples) -> Table:
    """Return the table of seconds from the start of a process to its first token, usual and first ever.

    For a backend that keeps nothing between runs, both are the same. Without any first start ever, the table
    has no rows.
    """
    usual: dict[tuple[str, str], dict[str, list[float]]] = {}
    ever: dict[tuple[str, str], dict[str, float]] = {}
    for m in comparison.measurements:
        entry, phase = (m.backend, m.model_type), m.phase.removesuffix("_ever")
        if m.phase in STARTING:
            usual.setdefault(entry, {}).setdefault(m.phase, []).append(m.median_ns / 1e9)
        elif phase != m.phase:
            ever.setdefault(entry, {})[phase] = m.median_ns / 1e9
    rows = []
    for entry in (each for each in comparison.entries() if ever and each in usual):
        found = ever.get(entry)
        keeps = entry[0] in BACKENDS and BACKENDS[entry[0]].keeps_work
        rows.append(
            [
                entry_label(*entry),
                f"{sum(map(median, usual[entry].values())):.1f}",
                f"{sum(found.values()):.1f}" if found else NOTHING if keeps else "the same",
            ]
        )
    return (
        "Seconds from the start of the process to the first token: usually, and in the first run ever, when "
        "no compiled code or converted model is cached.",
        ["", "usually", "first ever"],
        rows,
    )


def depth_table(comparison: Samples) -> Table:
    """Return the table of the speed of decode at each depth; it has no rows if there is only one depth."""
    written = [m for m in comparison.measurements if m.phase == "decode" and not m.flagged]
    depths = sorted({m.n_depth for m in written})
    headings = ["", *(f"after {n}" for n in depths)]
    rows = []
    timed = {(m.backend, m.model_type) for m in written}
    for entry in (each for each in comparison.entries() if each in timed):
        cells = []
        for depth in depths:
            found = [
                m.tokens_per_second
                for m in written
                if (m.backend, m.model_type, m.n_depth) == (*entry, depth)
            ]
            cells.append(f"{median(found):.1f}" if found else NOTHING)
        rows.append([entry_label(*entry), *cells])
    if len(depths) < 2:
        rows = []  # the table of speeds shows the only depth
    return "Decode by the number of tokens in the cache, tokens per second, medians.", headings, rows


def threads_that_ran(comparison: Samples, entry: tuple[str, str]) -> str:
    """Return the numbers of threads that worked in prefill and in decode, such as "2/1"."""
    counts = []
    for key in ("prefill", "decode"):
        used = [m.n_threads for m in selected(comparison, METRICS[key], *entry)]
        counts.append(str(max(used)) if used else "?")
    return "/".join(counts)


def memory_table(comparison: Samples) -> Table:
    """Return the table of memory after decode: private, file-backed and peak, and the size of the file."""
    found = {key: _by_entry(comparison, key) for key in ("private", "file", "peak", "size")}
    entries = dict.fromkeys([*found["peak"], *found["private"]])
    rows = [
        [
            entry_label(*entry),
            *(_number(found[key].get(entry), ".0f") for key in ("private", "file", "peak")),
            _number(found["size"].get(entry), ".1f"),
        ]
        for entry in entries
    ]
    return (
        "Memory of a fresh process after decode, MB: private (can't be dropped), file-backed (can be "
        "dropped), peak; size of the model file.",
        ["", "private", "file-backed", "peak", "model file"],
        rows,
    )


def conditions_table(comparison: Samples) -> Table:
    """Return the table of conditions: origin of the weights, version, cache, waiting policy, instructions."""
    kl = {(r["backend"], r["model_type"]): r.get("same_file_kl") for r in comparison.agreement}
    told = any("installed_bytes" in r for r in comparison.backends)
    rows = []
    for r in comparison.backends:
        entry = (r["backend"], r["model_type"])
        own = "the file's"
        if r.get("own_quantization"):
            divergence = kl.get(entry)
            own = "own quantization" + (f", KL {divergence:.2g}" if divergence is not None else "")
        cells = [str(r.get(key, NOTHING)) for key in ("version", "type_k", "wait_policy")]
        rows.append(
            [entry_label(*entry), own, *cells, *[_installation(r)] * told, str(r.get("isa", NOTHING))]
        )
    return (
        "Conditions: origin of the weights, version, key/value cache, waiting policy of OpenMP's "
        "threads (the faster of two), " + "cost of the installation, " * told + "instruction set.",
        ["", "weights", "version", "cache", "waits", *["installation"] * told, "instructions"],
        rows,
    )


def _installation(record: dict[str, Any]) -> str:
    """Return the known costs of the installation, such as "263 MB, 5 packages, 10 s, no compiler"."""
    if "installed_bytes" not in record:
        return NOTHING
    n = record.get("n_packages", 1)
    parts = [f"{record['installed_bytes'] / 1e6:.0f} MB", f"{n} package{'s' * (n != 1)}"]
    if "install_seconds" in record:
        parts.append(f"{record['install_seconds']:.0f} s")
    if "compiled" in record:
        parts.append("compiled" if record["compiled"] else "no compiler")
    return ", ".join(parts)


def base_entry(comparison: Samples) -> tuple[str, str] | None:
    """Return the base of the ratios: PyTorch float32 if it was timed, otherwise the first timed entry."""
    timed = [(s.backend, s.model_type) for s in summarize(comparison, "decode")]
    for entry in timed:
        if entry[0] == "torch-f32":
            return entry
    return timed[0] if timed else None


def _by_entry(comparison: Samples, metric: str) -> dict[tuple[str, str], Summary]:
    return {(s.backend, s.model_type): s for s in summarize(comparison, metric)}


def _number(summary: Summary | None, form: str) -> str:
    return NOTHING if summary is None else format(summary.value, form)


def _spread(summary: Summary) -> str:
    if len(summary.values) < 2:
        return f"{summary.value:.1f} (one block)"
    return f"{summary.value:.1f} ({summary.low:.1f} to {summary.high:.1f})"


def _text(title: str, headings: list[str], rows: list[list[str]]) -> str:
    """Return a table as text; names are aligned to the left, and so is a last column of words."""
    columns = list(zip(headings, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    prose = len(headings) - 1 if headings[-1] in PROSE else -1

    def line(cells: list[str]) -> str:
        aligned = [
            c.ljust(w) if i in (0, prose) else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))
        ]
        return "  ".join(aligned).rstrip()

    return "\n".join([title, line(headings), *map(line, rows)])


def best_of(comparison: Samples, found: Sequence[Summary], metric: str) -> str:
    """Return a sentence that names the best entry of a metric, or those that can't be told apart.

    The rule is that of the tables. A speed is the best only if it is certainly faster than every other.
    Memory has no such interval: two of its values can't be told apart if they differ by less than 3 %.
    """
    tied = undecided(comparison, found, metric)
    if tied:
        return f"Can't tell which is best: {', '.join(s.label for s in tied)}."
    return f"Best: {_first(found, metric).label}."


def _first(found: Sequence[Summary], metric: str) -> Summary:
    return (max if METRICS[metric].more_is_better else min)(found, key=lambda s: s.value)


def undecided(comparison: Samples, found: Sequence[Summary], metric: str) -> list[Summary]:
    """Return the entries among which the best one isn't certain, for figures to grey; empty if it is."""
    if len(found) < 2:
        return []
    first = _first(found, metric)
    rivals = []
    for other in found:
        if other is first:
            continue
        if METRICS[metric].more_is_better:
            entries = [(s.backend, s.model_type) for s in (first, other)]
            against = ratio(comparison, metric, *entries)
            tied = against is None or against.verdict != "faster"
        else:
            tied = metric not in EXACT and other.value <= first.value * (1 + MARGIN)
        if tied:
            rivals.append(other)
    return [first, *rivals] if rivals else []


def describe_bars(found: Sequence[Summary], metric: str, comparison: Samples | None = None) -> str:
    """Describe the bars of a metric in sentences: each value, the best, and the spread of the points.

    Args:
        found: the summaries that the bars show.
        metric: a key of METRICS.
        comparison: the comparison that `found` is from; if it is None, no entry is called the best.
    """
    about = METRICS[metric]
    if not found:
        return f"{about.title}: nothing was measured."
    values = ", ".join(f"{s.label} {short(s.value)}" for s in found)
    words = f"{about.title}: {values}."
    if comparison is not None and len(found) > 1:
        words += f" {best_of(comparison, found, metric)}"
    spreads = [(s.high - s.low) / s.value for s in found if len(s.values) > 1 and s.value]
    if spreads:
        words += f" The middle half of the values spans at most {max(spreads):.0%} of the median."
    return words


def describe_memory(memory: Sequence[tuple[str, float, float]]) -> str:
    """Describe the memory bars in a sentence.

    Args:
        memory: label, private MB and file-backed MB of each bar.
    """
    if not memory:
        return "Memory: not measured."
    parts = [f"{label} {private:.0f} private and {file:.0f} file-backed" for label, private, file in memory]
    return f"Memory in MB: {', '.join(parts)}."


def short(value: float) -> str:
    """Return a number as text, rounded to three digits, or to a whole number from 100 on."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
