"""Compare with llama.cpp's own programs on one file and one text, and write the table of it.

    LLAMA_CPP_BIN=FOLDER python -m tests.conformance.programs_table docs/measurements/quality.md

FOLDER holds llama-perplexity, llama-imatrix and llama-quantize (`make peers` builds them); without the
variable they are looked for on PATH.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmlite import gguf, resources
from llmlite.quantize import quantize_file

PROGRAMS = ("llama-perplexity", "llama-imatrix", "llama-quantize")
N_CTX, N_CHUNKS = 256, 20
SIZE = ["-c", str(N_CTX), "--chunks", str(N_CHUNKS)]
FILE_TYPES = ("F16", "Q8_0", "Q4_K_M", "IQ3_XXS")


class Quality(NamedTuple):
    """What both say of one file. Values, and the standard error that llama-perplexity gives."""

    file_type: str
    perplexity: tuple[float, float, float]  # ours, theirs, standard error
    kl: tuple[float, float, float] | None  # nats; None for the reference itself
    top1: tuple[float, float, float] | None  # per cent of positions
    delta_p_rms: tuple[float, float, float] | None  # per cent


class Matrices(NamedTuple):
    """How two importance matrices of one text compare."""

    common: set[str]
    only_ours: set[str]
    only_theirs: set[str]
    same_shapes: bool
    same_counts: bool
    largest_difference: float  # of a column's sum, relative to the largest sum of its tensor


LAST = "Final estimate: PPL ="  # how llama-perplexity ends


def found() -> Path | None:
    """The folder of llama.cpp's programs, or None where one of them is missing."""
    folder = os.environ.get("LLAMA_CPP_BIN")
    places = [shutil.which(name, path=folder) for name in PROGRAMS]
    return Path(places[0]).parent if all(places) else None


def plain_text(path: Path) -> Path:
    """Write the evaluation text without its markup: llama-perplexity reads it as letters."""
    text = resources.data_path("tales-eval.txt").read_text(encoding="utf-8")
    path.write_text(re.sub(r"<\|\w+\|>", "", text), encoding="utf-8")
    return path


def run(program: object, *arguments: object) -> str:
    """Run one of llama.cpp's programs on one thread; its output and its log together."""
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def run_until(pattern: str, *command: object) -> str:
    """Run a program until its log has the pattern; returns the log.

    llama-perplexity doesn't wait for the thread that writes its log: every second time the end is missing.
    """
    for _ in range(20):
        log = run(*command)
        if re.search(pattern, log):
            break
    return log


def llmlite(*arguments: object) -> str:
    """Run llmlite's command line as a user would."""
    command = [sys.executable, "-m", "llmlite", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=600, text=True, check=True).stdout


def number(pattern: str, log: str) -> tuple[float, float]:
    """A figure and its error out of a log that has them."""
    match = re.search(pattern + r"\s*(-?[\d.]+)\s*(?:±|\+/-)\s*([\d.]+)", log)
    assert match, f"{pattern} isn't in: {log[-2000:]}"
    return float(match.group(1)), float(match.group(2))


def qualities(programs: Path, tales: Path, folder: Path) -> Iterator[Quality]:
    """Perplexity and divergence of some files by both programs, the first file being the reference."""
    text, base = plain_text(folder / "text.txt"), folder / "base.kld"
    perplexity = programs / "llama-perplexity"
    imatrix = folder / "for-quality.gguf"
    llmlite("imatrix", tales, text, *SIZE, "-o", imatrix)
    for file_type in FILE_TYPES:
        path = tales
        if file_type != "F16":
            path = folder / f"{file_type}.gguf"
            quantize_file(tales, path, file_type, imatrix=imatrix)
        settings = ["-m", path, "-f", text, *SIZE, "-t", 1]
        ours = json.loads(llmlite("perplexity", path, text, *SIZE, "--json"))
        if file_type == "F16":
            log = run_until(LAST, perplexity, *settings, "--kl-divergence-base", base)
            yield Quality(file_type, (ours["value"], *number(LAST, log)), None, None, None)
            continue
        log = run_until(LAST, perplexity, *settings)
        apart = json.loads(llmlite("kl", path, text, *SIZE, "--reference", tales, "--json"))
        their = run_until(
            "Same top p:", perplexity, *settings, "--kl-divergence-base", base, "--kl-divergence"
        )
        yield Quality(
            file_type,
            (ours["value"], *number(LAST, log)),
            (apart["kl"], *number(r"Mean\s+KLD:", their)),
            (100 * apart["top1"], *number("Same top p:", their)),
            (100 * apart["delta_p_rms"], *number("RMS Δp\\s*:", their)),
        )


def measure_matrices(programs: Path, tales: Path, folder: Path) -> tuple[Path, Path]:
    """Measure an importance matrix with both programs on one text."""
    text = plain_text(folder / "text.txt")
    ours, theirs = folder / "ours.imatrix.gguf", folder / "theirs.imatrix.gguf"
    llmlite("imatrix", tales, text, *SIZE, "-o", ours)
    run(programs / "llama-imatrix", "-m", tales, "-f", text, *SIZE, "-t", 1, "-o", theirs)
    return ours, theirs


def compare_matrices(ours: Path, theirs: Path) -> Matrices:
    """Compare two importance-matrix files tensor by tensor."""
    with gguf.read(ours) as a, gguf.read(theirs) as b:
        common = set(a.tensors) & set(b.tensors)
        counts = [name for name in common if name.endswith(".counts")]
        sums = [name for name in common if name.endswith(".in_sum2")]

        def difference(name: str) -> float:
            mine, their = a.tensors[name].dequantize(), b.tensors[name].dequantize()
            return float(np.abs(mine.ravel() - their.ravel()).max() / np.abs(their).max())

        return Matrices(
            {name.removesuffix(".in_sum2") for name in sums},
            set(a.tensors) - common,
            set(b.tensors) - common,
            all(a.tensors[name].dims == b.tensors[name].dims for name in common),
            all(difference(name) == 0 for name in counts),
            max(difference(name) for name in sums),
        )


def same_blocks(ours: Path, theirs: Path) -> tuple[bool, float]:
    """Whether two files have one type for every tensor, and the share of bytes of their data that agree."""
    with gguf.read(ours) as a, gguf.read(theirs) as b:
        assert set(a.tensors) == set(b.tensors)
        types = all(a.tensors[name].type is b.tensors[name].type for name in a.tensors)
        n_same = n_all = 0
        for name, tensor in a.tensors.items():
            if tensor.type is b.tensors[name].type:
                n_same += int((tensor.blocks == b.tensors[name].blocks).sum())
            n_all += tensor.n_bytes
    return types, n_same / n_all


HEAD = f"""\
# llmlite beside llama.cpp's programs

Made by `python -m tests.conformance.programs_table docs/measurements/quality.md`; do not edit.
The bundled model, the
evaluation text without its markup, {N_CHUNKS} chunks of {N_CTX}. Programs: llama-perplexity, llama-imatrix
and llama-quantize of the llama.cpp that llama-cpp-python carries (`make peers` builds them). ± is the
standard error that llama-perplexity gives. llama-perplexity keeps the reference's logits in 16 bits and cuts
off what lies more than 16 nats below the best, so the divergences differ a little.

| file | perplexity: llmlite | llama.cpp | KL divergence: llmlite | llama.cpp | same best token: llmlite \
| llama.cpp | Δp, root mean square: llmlite | llama.cpp |
|---|---|---|---|---|---|---|---|---|
"""


def table(programs: Path, tales: Path, folder: Path) -> str:
    """The whole page."""
    text = HEAD
    for row in qualities(programs, tales, folder):
        cells = _pair(row.perplexity, 4) + _pair(row.kl, 5)
        cells += _pair(row.top1, 2, " %") + _pair(row.delta_p_rms, 3, " %")
        text += f"| {row.file_type} | {' | '.join(cells)} |\n"
    ours, theirs = measure_matrices(programs, tales, folder)
    found = compare_matrices(ours, theirs)
    more = ", ".join(sorted(name.removesuffix(".in_sum2") for name in found.only_ours if "in_sum2" in name))
    text += (
        f"\nImportance matrices of that text by `llmlite imatrix` and llama-imatrix: {len(found.common)} "
        f"tensors in both, counts {'equal' if found.same_counts else 'NOT equal'}, sums of squares apart by "
        f"at most {found.largest_difference:.1e} of a tensor's largest. Only llmlite's has {more or 'none'}: "
        "the output's importances, which llama-imatrix leaves out unless told otherwise.\n"
    )
    text += "\nFiles quantized with llama-imatrix's matrix by both programs:\n\n"
    text += "| file | same type of every tensor | equal bytes |\n|---|---|---|\n"
    for file_type in ("Q4_K_M", "Q6_K", "Q8_0", "Q4_0"):
        types, share = same_blocks(*quantize_by_both(programs, tales, folder, file_type, theirs))
        text += f"| {file_type} | {'yes' if types else 'NO'} | {100 * share:.2f} % |\n"
    return text


def quantize_by_both(
    programs: Path, tales: Path, folder: Path, file_type: str, imatrix: Path
) -> tuple[Path, Path]:
    """Quantize the model with both programs and one importance matrix; returns ours, theirs."""
    ours, theirs = folder / "by-llmlite.gguf", folder / "by-llama-quantize.gguf"
    llmlite("quantize", tales, ours, file_type, "--imatrix", imatrix, "--force")
    run(programs / "llama-quantize", "--imatrix", imatrix, tales, theirs, file_type, 1)
    return ours, theirs


def _pair(values: tuple[float, float, float] | None, digits: int, unit: str = "") -> list[str]:
    if values is None:
        return ["–", "–"]
    ours, theirs, error = (f"{value:.{digits}f}{unit}" for value in values)
    return [ours, f"{theirs} ± {error}"]


def main(target: str) -> None:
    programs = found()
    if programs is None:
        raise SystemExit(f"set LLAMA_CPP_BIN to the folder of {', '.join(PROGRAMS)}")
    with tempfile.TemporaryDirectory() as folder:
        text = table(programs, resources.model_path("tales"), Path(folder))
    Path(target).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
