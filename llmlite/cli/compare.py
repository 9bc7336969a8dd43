"""Compare llmlite with PyTorch, llama.cpp and others on this machine.

Each backend runs in a process of its own, on the same weights, token ids and number of threads. A backend
whose results differ isn't timed. Raw samples, tables and a figure go to the output folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llmlite.bench.backends import BACKENDS
from llmlite.cli.run import number
from llmlite.errors import LlmliteError
from llmlite.system import files
from llmlite.system.limits import MAX_THREADS
from llmlite.terminal import complain, say

if TYPE_CHECKING:
    from llmlite.bench.compare import Options
    from llmlite.bench.samples import Comparison

HELP = "measure llmlite beside PyTorch on this machine"
EXAMPLES = """\
examples:
  llmlite compare                                     the bundled model in F16, Q8_0 and Q4_0; some minutes
  llmlite compare --quick                             about a minute
  llmlite compare smollm2                             a real model, in Q8_0, Q4_0 and Q4_1; 15 minutes
  llmlite compare smollm2 --backends all --time 3600
  llmlite compare model.gguf --types Q8_0,Q4_0 --threads 4
  llmlite compare --types F16,Q6_K --backends llmlite,torch-f32,llamacpp
  llmlite compare --sizes --time 1800 -o results/sizes   three sizes and a picture; takes 1.3 GB of cache
  llmlite compare --from results/comparison.jsonl     make tables and figure again, without measuring
  llmlite compare --report comparison.html            also write one page, to send or to print

Run it on a quiet machine: the spread in the tables shows how quiet it was.
Exit code 1: llmlite's own results differ from float32 arithmetic, a backend that was named with --backends
did not run, or none did.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_subject(parser)
    _add_measurement(parser)
    _add_files(parser)


def _add_subject(parser: argparse.ArgumentParser) -> None:
    """Add the subject of the comparison: the model, its types, the backends and their threads."""
    parser.add_argument(
        "model", nargs="?", default="tales", help='a GGUF file, "smollm2", or "tales" (default)'
    )
    parser.add_argument(
        "--types",
        type=names,
        metavar="A,B",
        help="quantizations (default: F16,Q8_0,Q4_0 of tales, Q8_0,Q4_0,Q4_1 of smollm2, a file as it is); "
        "other types of a file are quantized from its weights",
    )
    parser.add_argument(
        "--backends",
        type=names,
        metavar="A,B",
        help=f"{', '.join(BACKENDS)}, or all "
        f"(default: {', '.join(name for name, info in BACKENDS.items() if info.default)})",
    )
    parser.add_argument(
        "--threads",
        type=number(int, 1, MAX_THREADS),
        metavar="N",
        help="threads of every backend (default: as many as can run at once)",
    )


def _add_measurement(parser: argparse.ArgumentParser) -> None:
    """Add the options of the measurement: rounds, time, lengths of texts, and the order of turns."""
    parser.add_argument(
        "--blocks",
        type=number(int, 1),
        metavar="N",
        help="rounds (default: 10; at least 5 are needed to find a difference)",
    )
    parser.add_argument(
        "--time",
        type=number(float, 1),
        metavar="SECONDS",
        help="time for the whole comparison (default: 900, or 55 with --quick); the blocks are chosen to fit",
    )
    parser.add_argument(
        "--prompts", type=lengths, metavar="N,..", help="lengths of prompts, in tokens (default: 64,512)"
    )
    parser.add_argument(
        "--depths",
        type=depths,
        metavar="N,..",
        help="tokens in the cache before decode (default: 0,512,2048; those beyond the context are left out)",
    )
    parser.add_argument(
        "--gen", type=number(int, 1), metavar="N", help="tokens generated in each turn (default: 128)"
    )
    parser.add_argument(
        "--sizes",
        action="store_true",
        help="compare at three sizes: tales, smollm2, and 1.2 billion random weights; --time covers all",
    )
    parser.add_argument("--quick", action="store_true", help="shorter prompts, fewer rounds")
    parser.add_argument(
        "--seed", type=number(int, 0), metavar="N", help="seed of the order of turns (default: 0)"
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    """Add the files that are written, and the file that samples are read from."""
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("results"), metavar="FOLDER", help="default: %(default)s"
    )
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="also write one self-contained page")
    parser.add_argument(
        "--from",
        dest="samples",
        type=Path,
        metavar="FILE",
        help="read samples from here instead of measuring",
    )


def lengths(text: str) -> tuple[int, ...]:
    """Read whole numbers of at least 1, such as "64,512"."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (0,)
    if min(found) < 1:
        raise argparse.ArgumentTypeError(
            f"expected numbers of at least 1 with commas between them, got {text!r}"
        )
    return found


def depths(text: str) -> tuple[int, ...]:
    """Read whole numbers of at least 0, such as "0,512"."""
    return tuple(0 if part.strip() == "0" else lengths(part)[0] for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"expected names with commas between them, got {text!r}")
    return found


def run(options: argparse.Namespace) -> int:
    from llmlite.bench import compare
    from llmlite.bench.report import markdown, titled
    from llmlite.bench.samples import Comparison

    if options.report and importlib.util.find_spec("matplotlib") is None:
        raise LlmliteError("--report needs matplotlib: pip install 'llmlite-kit[plot]'")
    if options.sizes:
        return sizes(options)
    if options.samples:
        refuse_measuring(options)
        result = Comparison.load(options.samples)
        written = []
    else:
        options.output.mkdir(parents=True, exist_ok=True)  # fail now, not after the measurement
        result = compare.run(chosen(options), progress=sys.stderr.isatty())
        written = [result.save(options.output / "comparison.jsonl")]
    text = str(result)
    say(text)
    options.output.mkdir(parents=True, exist_ok=True)
    tables, document = options.output / "comparison.txt", options.output / "comparison.md"
    with files.together():
        files.write_text(tables, text + "\n")
        files.write_text(document, f"# {titled(result)}\n\n{markdown(result)}\n")
        written += [tables, document, *figures(result, options.output)]
        if options.report:
            written.append(page(result, options.report))
    say("\nwritten:")
    for path in written:
        say(f"  {path}")
    wrong = [r for r in result.agreement if r["backend"].startswith("llmlite") and not r["agrees"]]
    timed = {m.backend for m in result.measurements if m.phase == "decode"}
    missing = ({r["backend"] for r in result.skipped} & set(options.backends or ())) - timed
    for name in sorted(missing):
        complain(f"--backends: {name} did not run; the table says why")
    if not timed:
        complain("no backend ran; the table says why")
    return 1 if wrong or missing or not timed else 0


def refuse_measuring(options: argparse.Namespace) -> None:
    """Refuse options of a measurement together with --from, which only shows results.

    --backends may be given: it names backends that must be among the results.

    Raises:
        LlmliteError: there is one.
    """
    names = ("types", "threads", "blocks", "time", "prompts", "depths", "gen", "seed", "quick")
    given = [f"--{name}" for name in names if getattr(options, name) not in (None, False)]
    if options.model != "tales":
        given.insert(0, options.model)
    if given:
        raise LlmliteError(f"--from: shows everything that was measured; {', '.join(given)} would do nothing")


def sizes(options: argparse.Namespace) -> int:
    """Compare at every size. Write a folder for each, and one table and one picture of all."""
    from llmlite.bench import compare, sizes

    if options.samples or options.report or options.model != "tales":
        raise LlmliteError("--sizes chooses the models itself: give neither a model nor --from nor --report")
    options.output.mkdir(parents=True, exist_ok=True)
    shown = sys.stderr.isatty()

    def keep(name: str, result: Comparison) -> None:
        result.save(options.output / name / "comparison.jsonl")
        files.write_text(options.output / name / "comparison.txt", f"{result}\n")

    found = sizes.sweep(chosen(options), lambda each: compare.run(each, progress=shown), say=say, keep=keep)
    if not found:
        raise LlmliteError(f"nothing was measured at any size; the reasons are above, or in {options.output}")
    rows = sizes.table(found)
    rows.insert(1, ["---"] * len(rows[0]))
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    say(table)
    files.write_text(options.output / "sizes.md", table + "\n")
    if importlib.util.find_spec("matplotlib") is not None:
        from llmlite import plots

        for theme in ("light", "dark"):
            plots.save(plots.sweeps.sizes(found, theme=theme), options.output / f"sizes-{theme}.png")
    return 0 if len(found) == len(sizes.SIZES) else 1


def chosen(options: argparse.Namespace) -> Options:
    """Turn the command line into Options. An option that wasn't given keeps its default."""
    from llmlite.bench.compare import Options

    given = {name: getattr(options, name) for name in ("types", "backends", "threads", "blocks", "seed")}
    if given["backends"] == ("all",):
        given["backends"] = tuple(BACKENDS)
    given |= {"prompts": options.prompts, "depths": options.depths, "n_gen": options.gen}
    given["budget_seconds"] = options.time
    try:
        return Options(
            model=options.model,
            quick=options.quick,
            **{name: value for name, value in given.items() if value is not None},
        )
    except ValueError as error:
        raise LlmliteError(str(error)) from error


def page(result: Comparison, path: Path) -> Path:
    """Write the comparison as one page and return its path."""
    from llmlite import plots

    try:
        text = plots.page.comparison_page(result)
    except ValueError as error:
        raise LlmliteError(f"--report: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, text)
    return path


def figures(result: Comparison, folder: Path) -> list[Path]:
    """Draw the comparison for light and for dark pages; return the files."""
    if importlib.util.find_spec("matplotlib") is None:
        say("\nno figure: matplotlib isn't installed (pip install 'llmlite-kit[plot]')", file=sys.stderr)
        return []
    from llmlite import plots

    written = []
    for theme in ("light", "dark"):
        written += plots.save(plots.comparison(result, theme=theme), folder / f"comparison-{theme}.png")
    return written
