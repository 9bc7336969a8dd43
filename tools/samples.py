"""Measure the shipped samples (data/samples) again in one run, each figure once, on two quiet cores.

    python tools/samples.py                      all of them: took 16 minutes, planned for at most 30
    python tools/samples.py --list               list the samples, with the needs and the minutes of each
    python tools/samples.py --only ladder,roofline
    python tools/samples.py --resume             continue after a stop; keep the results so far
    python tools/samples.py --check              measure nothing; check that the shipped samples agree

It needs PyTorch, llama-cpp-python, environments of `llmlite bench env create NAME` for the other peers, and a
pulled SmolLM2. Missing needs are named before anything is measured. Each result is saved in results/samples
immediately. At the end, all samples are compared. If two of them contradict each other, no shipped sample is
replaced (--force replaces them anyway). Then data/SHA256SUMS is written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from llmlite.bench import advice, article, consistency, findings, shipped, timeline  # noqa: E402
from llmlite.bench.consistency import SampleFigure  # noqa: E402
from llmlite.bench.ladder import Ladder  # noqa: E402
from llmlite.bench.roofline import Roofline  # noqa: E402
from llmlite.bench.samples import Comparison  # noqa: E402
from llmlite.bench.taking import Run, SampleFile, Taking  # noqa: E402
from llmlite.errors import LlmliteError  # noqa: E402
from llmlite.lessons import fewer_bits, sizes  # noqa: E402
from llmlite.system import files  # noqa: E402
from tools import checksums  # noqa: E402

TARGET = ROOT / "data/samples"
KEPT = ROOT / "results/samples"
MODELS = {"tales": "tales", "SmolLM2 135M": "smollm2", "1B shape": "large"}  # names in lesson 08 -> runs
SHIPPED = (
    "Shipped with llmlite: two cores of a small virtual server. Run `llmlite compare` for your own machine."
)
PEERS = (
    *("llamacpp", "xllamacpp", "torch-f32", "transformers", "tensorflow-hub"),
    *("openvino", "ctranslate2", "ort-genai"),
)


# --- runs -------------------------------------------------------------------------------------


def _save_kernels(found: tuple[Ladder, Roofline], folder: Path) -> None:
    found[0].save(folder / "ladder.json")
    found[1].save(folder / "roofline.json")


def _load_kernels(folder: Path) -> tuple[Ladder, Roofline]:
    return Ladder.load(folder / "ladder.json"), Roofline.load(folder / "roofline.json")


def _comparison(name: str, measure: Any, minutes: float, backends: tuple[str, ...], model: str) -> Run:
    return Run(
        name=name,
        minutes=minutes,
        measure=measure,
        save=lambda found, folder: found.save(folder / "comparison.jsonl"),
        load=lambda folder: Comparison.load(folder / "comparison.jsonl"),
        backends=backends,
        models=(model,),
    )


RUNS = (
    _comparison("tales", shipped.tales, 7, shipped.ON_TALES, "tales"),
    _comparison("smollm2", shipped.smollm2, 5.5, shipped.ON_SMOLLM2, "smollm2"),
    _comparison("large", shipped.large, 4, shipped.ON_LARGE, "tales"),
    Run(
        name="kernels",
        minutes=2.5,
        measure=shipped.kernels,
        save=_save_kernels,
        load=_load_kernels,
    ),
    Run(
        name="timelines",
        minutes=1,
        measure=shipped.timelines,
        save=lambda found, folder: timeline.save(found, folder / "timelines.jsonl"),
        load=lambda folder: timeline.load(folder / "timelines.jsonl"),
        backends=shipped.WATCHED,
        models=("tales",),
    ),
    Run(
        name="advice",
        minutes=1.5,
        measure=shipped.advised,
        save=lambda found, folder: found.save(folder / "advice.json"),
        load=lambda folder: advice.Checks.load(folder / "advice.json"),
        models=("tales", "smollm2"),
    ),
    Run(
        name="claims",
        minutes=10,
        measure=lambda say: article.claims((), say),
        save=lambda found, folder: found.save(folder / "claims.json"),
        load=lambda folder: findings.Claims.load(folder / "claims.json"),
        backends=PEERS,
        models=("tales", "smollm2"),
    ),
)


# --- samples ----------------------------------------------------------------------------------


def _write_json(made: Any, path: Path) -> None:
    files.write_text(path, json.dumps(asdict(made), indent=1, ensure_ascii=False) + "\n")


def _write_bits(found: Mapping[str, Any], path: Path) -> None:
    _write_json(fewer_bits.measured(found["tales"], fewer_bits.TypeLadder()), path)


def _bits(path: Path) -> list[SampleFigure]:
    names = {info.title: name for name, info in shipped.compare.BACKENDS.items()}
    out = []
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        speed, memory = row["tokens_per_second"], row["private_bytes"] / 1e6
        for what, value in (("decode", speed), ("memory", memory)):
            out.append(
                consistency.sample_figure(path.name, names[row["backend"]], "tales", row["type"], what, value)
            )
    return out


def _write_sizes(found: Mapping[str, Any], path: Path) -> None:
    memory = found["kernels"][1].roof.bytes_per_second
    comparisons = {model: found[run] for model, run in MODELS.items()}
    _write_json(sizes.measured(comparisons, memory, quiet=taking.is_quiet()), path)


def _sizes(path: Path) -> list[SampleFigure]:
    out = []
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        where = path.name, row["backend"], MODELS[row["model"]], row["type"]
        out.append(consistency.sample_figure(*where, "decode", 1 / row["seconds"]))
        if row["private_bytes"]:
            out.append(consistency.sample_figure(*where, "memory", row["private_bytes"] / 1e6))
    return out


def _timelines(path: Path) -> list[SampleFigure]:
    return [
        consistency.sample_figure(path.name, each.backend, "tales", "F16", "memory", each.private[-1] / 1e6)
        for each in timeline.load(path)
    ]


def _claims(path: Path) -> list[SampleFigure]:
    values = findings.Claims.load(path)["hardware"].values
    memory = (values["private_bytes"] or 0) / 1e6
    where = path.name, "llmlite", "tales", "Q4_0"
    speed = consistency.sample_figure(*where, "decode", values["tokens_per_second"])
    return [speed, consistency.sample_figure(*where, "memory", memory)] if memory else [speed]


def _compared(run: str, file: str, types: tuple[str, ...]) -> SampleFile:
    """Return the sample of a comparison, limited to these types."""

    def write(found: Mapping[str, Any], path: Path) -> None:
        kept = found[run].of_types(types)
        kept.notes.append(SHIPPED)
        kept.save(path)

    return SampleFile(
        name=file.removesuffix(".jsonl"),
        file=file,
        runs=(run,),
        write=write,
        figures=lambda path: consistency.of_comparison(path.name, run, Comparison.load(path)),
    )


SAMPLES = (
    _compared("tales", "comparison-two-cores.jsonl", shipped.TYPES),
    _compared("smollm2", "comparison-smollm2.jsonl", shipped.LARGE_TYPES),
    SampleFile(
        name="half-the-bits", file="half_the_bits.json", runs=("tales",), write=_write_bits, figures=_bits
    ),
    SampleFile(
        name="sizes",
        file="sizes.json",
        runs=("tales", "smollm2", "large", "kernels"),
        write=_write_sizes,
        figures=_sizes,
    ),
    SampleFile(
        name="ladder",
        file="ladder.json",
        runs=("kernels",),
        write=lambda found, path: found["kernels"][0].save(path) and None,
    ),
    SampleFile(
        name="roofline",
        file="roofline.json",
        runs=("kernels",),
        write=lambda found, path: found["kernels"][1].save(path) and None,
    ),
    SampleFile(
        name="memory-timeline",
        file="memory-timeline.jsonl",
        runs=("timelines",),
        write=lambda found, path: timeline.save(found["timelines"], path),
        figures=_timelines,
    ),
    SampleFile(
        name="advice",
        file="advice.json",
        runs=("advice",),
        # Not compared with others, because it keeps the best rounds of bandwidth and of tokens. If memory has
        # a fast and a slow level, the median of a comparison can be a quarter lower.
        write=lambda found, path: found["advice"].save(path) and None,
    ),
    SampleFile(
        name="claims",
        file="claims.json",
        runs=("claims",),
        write=lambda found, path: found["claims"].save(path) and None,
        figures=_claims,
    ),
)
taking = Taking(
    runs=RUNS, samples=SAMPLES, kept=KEPT, target=TARGET, say=lambda text: print(text, flush=True)
)


# --- the command ------------------------------------------------------------------------------


def listed() -> str:
    """Return the table of samples as text."""
    rows = []
    for sample in SAMPLES:
        needed = taking.needed([sample])
        peers = sorted({name for run in needed for name in run.backends} - {"llmlite"})
        minutes = sum(run.minutes for run in needed)
        needs = f"needs {', '.join(peers) or 'no peer'}"
        rows.append(f"{sample.name:<21}{minutes:>5g} min  runs: {', '.join(sample.runs)}; {needs}")
    total = sum(run.minutes for run in RUNS)
    return "\n".join([*rows, f"together {total:g} min, because each run is made only once"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="A,B", default="", help="take only these samples")
    parser.add_argument("--list", action="store_true", help="show the table of samples and stop")
    parser.add_argument("--resume", action="store_true", help="keep the results in results/samples")
    parser.add_argument("--check", action="store_true", help="only check whether the shipped samples agree")
    parser.add_argument("--force", action="store_true", help="install samples that contradict each other")
    options = parser.parse_args()
    if options.list:
        print(listed())
        return 0
    if options.check:
        return told(taking.disagreements({}))
    try:
        chosen = taking.choose([name for name in options.only.split(",") if name])
        results = taking.measure(chosen, resume=options.resume)
    except KeyboardInterrupt:
        sys.exit("stopped; continue with: python tools/samples.py --resume")
    except LlmliteError as error:
        parser.error(str(error))
    written = taking.write(chosen, results)
    busy = "" if taking.is_quiet() else "; THE MACHINE WAS BUSY: take them again"
    print(f"written: {', '.join(written) or 'nothing'}{busy}")
    wrong = told(taking.disagreements(written))
    if wrong and not options.force:
        sys.exit(f"nothing was installed; the new files are in {taking.kept / 'samples'}")
    taking.install(written)
    checksums.write()
    left = [sample.name for sample in chosen if sample.name not in written]
    if left:
        sys.exit(f"not taken: {', '.join(left)}; continue with: python tools/samples.py --resume")
    return 0


def told(wrong: list[str]) -> int:
    """Print the contradictions; return 1 if there are any."""
    for sentence in wrong:
        print(sentence)
    print(f"{len(wrong)} contradictions" if wrong else "the samples agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
