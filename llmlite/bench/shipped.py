"""The measurements for the shipped samples, all with the same models, lengths and blocks.

`tools/samples.py` takes them one after another and writes the samples that lessons and documents show. A
backend's speed on a model is measured in only one comparison. Every sample that shows the speed takes it from
there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from llmlite import resources
from llmlite.bench import advice, compare, sizes, timeline
from llmlite.bench.backends.weights import cached
from llmlite.bench.environment import record
from llmlite.bench.inputs import ModelFile, agreement_ids, open_models
from llmlite.bench.ladder import Ladder, measure_ladder
from llmlite.bench.options import Options
from llmlite.bench.roofline import Point, Roof, Roofline, measure_roof, roofline_points
from llmlite.bench.samples import Comparison
from llmlite.errors import LlmliteError
from llmlite.quantize import quantize_file
from llmlite.quantize.mixes import canonical

Say = Callable[[str], None]

# The prompt lengths, token counts and blocks of every comparison.
RULES = Options(
    blocks=10,
    prompts=(64, 256),
    depths=(1, 512),
    n_gen=32,
    start_runs=2,
    budget_seconds=None,
    first_ever=False,
)
LARGE_RULES: dict[str, Any] = {"prompts": (64,), "depths": (1,), "start_runs": 1}  # fewer: a slow model
TYPES = ("F16", "Q8_0", "Q4_0")  # of the bundled model, as in `llmlite compare`
PURE_TYPES = ("F32", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K")  # every matrix in one type; only for llmlite
LARGE_TYPES = ("Q8_0", "Q4_0")
ON_TALES = ("llmlite", "llamacpp", "torch-f32", "torch-bf16", "tensorflow", "tensorflow-eager")
ON_SMOLLM2 = ("llmlite", "llamacpp", "xllamacpp", "torch-f32", "torch-bf16", "torch-int4", "torch-int8")
ON_LARGE = ("llmlite", "torch-f32")
ADVISED = ("tales:F16", "tales:Q8_0", "tales:Q4_0", "smollm2:Q8_0", "smollm2:Q4_0", "smollm2:Q4_1")
WATCHED = ("llmlite", "llamacpp", "torch-f32")  # backends whose memory is recorded over time
SECONDS = {"tales": 600.0, "smollm2": 480.0, "large": 420.0}  # limit for each comparison
STEPS = {"decode": 1, "prefill 64": 64, "prefill 256": 256}  # tokens of the steps in the roofline
ROUNDS, PAUSE = 8, 3.0  # rounds in which kernels are measured; seconds between two of them
KERNELS_MODEL = "Llama 3.2 1B's shape, Q4_0"


def tales(say: Say) -> Comparison:
    """Compare backends on the bundled model; llmlite also runs the types of the slider in lesson 03."""
    files = open_models("tales", TYPES)
    pure = [_pure(type_name) for type_name in PURE_TYPES]
    pairs = _pairs(("llmlite",), files)
    pairs += [("llmlite", file) for file in pure]
    pairs += _pairs(ON_TALES[1:], files)
    return _compared("tales", "tales", pairs, say)


def smollm2(say: Say) -> Comparison:
    """Compare backends on SmolLM2, which must have been pulled before."""
    return _compared("smollm2", "smollm2", _pairs(ON_SMOLLM2, open_models("smollm2", LARGE_TYPES)), say)


def large(say: Say) -> Comparison:
    """Compare backends on a model of a known shape with 1.2 billion random weights."""
    say("making the model of 1.2 billion weights, unless it is cached")
    files = [open_models(sizes.synthetic(name), ())[0] for name in LARGE_TYPES]
    return _compared("large", sizes.SHAPE, _pairs(ON_LARGE, files), say, **LARGE_RULES)


def _compared(
    name: str, model: str, pairs: Sequence[tuple[str, ModelFile]], say: Say, **rules: Any
) -> Comparison:
    budget = SECONDS[name]
    say(f"{len(pairs)} entries, at most {budget:.0f} s")
    options = replace(RULES, model=model, budget_seconds=budget, **rules)
    found = compare.run(options, progress=sys.stderr.isatty(), pairs=pairs)
    timed = {(m.backend, m.model_type) for m in found.measurements if m.phase == "decode"}
    gone = [f"{b} {file.model_type}" for b, file in pairs if (b, file.model_type) not in timed]
    if gone:
        refused = [r for r in found.agreement if not r["agrees"]]
        reasons = "; ".join(f"{r['backend']}: {r['reason']}" for r in [*found.skipped, *refused])
        raise LlmliteError(f"{model}: not measured: {', '.join(gone)} ({reasons or 'no reason was given'})")
    found.measurements = [replace(m, steps_ns=()) for m in found.measurements]  # unused in samples
    return found


def _pairs(backends: Sequence[str], files: Sequence[ModelFile]) -> list[tuple[str, ModelFile]]:
    """Return pairs of backends and files; a backend that unpacks all weights gets only the first file."""
    keeps = compare.BACKENDS
    return [(b, file) for b in backends for file in (files if keeps[b].keeps_quantized else files[:1])]


def _pure(type_name: str) -> ModelFile:
    """Return the bundled model with every matrix in one type; the file is cached."""
    source = resources.model_path("tales")

    def make(folder: str) -> None:
        Path(folder).mkdir()
        quantize_file(source, Path(folder) / f"tales-{type_name}.gguf", canonical(type_name), pure=True)

    [path] = Path(cached(str(source), f"pure-{type_name}", make)[0]).glob("*.gguf")
    return open_models(str(path), ())[0]


def kernels(say: Say) -> tuple[Ladder, Roofline]:
    """Measure the ladder and the roofline in rounds.

    The ladder keeps every run. The roof is the best of all rounds, and each operation has its shortest time.
    So both show the undisturbed machine.
    """
    from llmlite.model import load

    model = load(sizes.synthetic("Q4_0"), n_ctx=512, executor="planned")
    roof, ladder = measure_roof(), measure_ladder(repeats=3, roof=False)
    points: dict[str, list[Point]] = {}
    for number in range(ROUNDS):
        say(f"round {number + 1} of {ROUNDS}")
        roof = best_roof(roof, measure_roof(repeat=10))
        for step, n_tokens in STEPS.items():
            found = roofline_points(model, n_tokens, repeat=3)
            points[step] = fastest(points.get(step, found), found)
        again = measure_ladder(repeats=3, roof=False)
        ladder.steps = [
            replace(old, samples_ns=old.samples_ns + new.samples_ns)
            for old, new in zip(ladder.steps, again.steps, strict=True)
        ]
        time.sleep(PAUSE)
    place = record()
    return (
        Ladder(environment=place, steps=ladder.steps, roof=roof),
        Roofline(environment=place, model=KERNELS_MODEL, roof=roof, points=points),
    )


def best_roof(a: Roof, b: Roof) -> Roof:
    """Return a roof with the higher of two measured values for each limit."""
    return Roof(**{name: max(value, asdict(b)[name]) for name, value in asdict(a).items()})


def fastest(a: list[Point], b: list[Point]) -> list[Point]:
    """Return the faster of two measurements of each operation."""
    return [x if x.nanoseconds <= y.nanoseconds else y for x, y in zip(a, b, strict=True)]


def timelines(say: Say) -> list[timeline.Timeline]:
    """Record the memory of each process on the bundled model twice, in turns; keep the shorter run."""
    [file] = open_models("tales", ("F16",))
    ids = agreement_ids(file, 256)
    taken: dict[str, list[timeline.Timeline]] = {name: [] for name in WATCHED}
    for turn in (1, 2):
        for name in WATCHED:
            say(f"{name}, turn {turn} of 2")
            watched = partial(timeline.record, name, file.path, ids, n_gen=RULES.n_gen, n_ctx=545)
            taken[name].append(watched())
    return [min(both, key=lambda each: each.seconds[-1]) for both in taken.values()]


def advised(say: Say) -> advice.Checks:
    """Predict the speed of models of three sizes and measure it."""
    say("bandwidth and the overhead of a matrix")
    machine = advice.measure_machine()
    synthetic = {sizes.synthetic(name): f"large:{name}" for name in LARGE_TYPES}
    checks = []
    for model in (*ADVISED, *synthetic):
        name = synthetic.get(model, model)
        say(name)
        checks += advice.check_predictions([model], machine, names={model: name})
    return advice.Checks(environment=record(), checks=checks)
