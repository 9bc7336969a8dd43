"""One comparison for each size of model, from the bundled model to 1.2 billion weights, in a given time.

The largest model has a known shape and random weights (`llmlite synth`). It is as fast as a trained model,
but its text means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmlite import resources
from llmlite.bench.backends import BACKENDS
from llmlite.bench.backends.weights import cached
from llmlite.bench.options import Options
from llmlite.bench.report import base_entry
from llmlite.bench.samples import Comparison
from llmlite.bench.summary import MIN_BLOCKS, ratio, summarize
from llmlite.errors import LlmliteError
from llmlite.synth import synthesize

TYPE = "Q8_0"
SHAPE = "llama-3.2-1b"
BACKENDS_SWEPT = ("llmlite", "llamacpp", "xllamacpp", "torch-f32", "torch-bf16", "torch-int8", "ort-genai")


@dataclass(frozen=True, kw_only=True)
class Size:
    """A step of the sweep.

    Attributes:
        name: name of the step.
        model: function that returns the model for `compare`.
        share: share of the time.
    """

    name: str
    model: Callable[[], str]
    share: float


def synthetic(type_name: str = TYPE) -> str:
    """Return the path of the largest model, which is written to the cache on first use (Q8_0: 1.3 GB).

    Args:
        type_name: quantization of the weights.

    Raises:
        OSError: there is too little room on the disk.
    """

    def make(folder: str) -> None:
        Path(folder).mkdir()
        synthesize(f"{folder}/{SHAPE}-{type_name}.gguf", SHAPE, type_name, seed=0)

    source = str(resources.model_path("tales"))  # only a key of the cache: the model isn't made from a file
    [path] = Path(cached(source, f"synth-{SHAPE}-{type_name}", make)[0]).glob("*.gguf")
    return str(path)


SIZES = (
    Size(name="tales", model=lambda: "tales", share=0.15),
    Size(name="smollm2", model=lambda: "smollm2", share=0.25),
    Size(name=SHAPE, model=synthetic, share=0.6),
)


def sweep(
    options: Options,
    run: Callable[[Options], Comparison],
    *,
    say: Callable[[str], None] = lambda _: None,
    keep: Callable[[str, Comparison], None] = lambda _name, _found: None,
) -> dict[str, Comparison]:
    """Compare at every size and return the comparisons by name.

    A size is left out if its model isn't available, if its comparison fails, or if nothing could be measured.
    The reason is reported, and the next size follows.

    Args:
        options: options of each comparison; the sweep sets model and types, and divides the time.
        run: function that makes a comparison.
        say: called with a sentence before each comparison, and for each size that is left out.
        keep: called with the name of the size and the comparison, as soon as it is done.
    """
    backends = options.backends or tuple(n for n in BACKENDS_SWEPT if not BACKENDS[n].unavailable())
    found = {}
    for size in SIZES:
        seconds = options.budget_seconds and options.budget_seconds * size.share
        try:
            model = size.model()
            resources.model_path(model)
        except (LlmliteError, OSError) as error:
            say(f"{size.name}: left out: {error}")
            continue
        say(f"{size.name}: {'no limit' if seconds is None else f'{seconds:.0f} s'}")
        types = options.types or (None if size.name == SHAPE else (TYPE,))  # None: the file's own type
        try:
            made = run(replace(options, model=model, types=types, backends=backends, budget_seconds=seconds))
        except (LlmliteError, OSError) as error:
            say(f"{size.name}: failed: {error}")
            continue
        keep(size.name, made)
        if summarize(made, "decode"):
            found[size.name] = made
        else:
            reasons = "; ".join(f"{each['backend']}: {each['reason']}" for each in made.skipped)
            say(f"{size.name}: nothing was measured: {reasons or 'no backend agrees'}")
    return found


def table(found: dict[str, Comparison]) -> list[list[str]]:
    """Return rows of text, the headings first; the last column has the ratio to the base with its verdict."""
    rows = [["model", "million weights", "backend", "prefill", "decode", "decode against base"]]
    for name, comparison in found.items():
        base = base_entry(comparison)
        prefill = {s.label: s for s in summarize(comparison, "prefill")}
        for each in summarize(comparison, "decode"):
            entry = (each.backend, each.model_type)
            against = ratio(comparison, "decode", entry, base) if base and entry != base else None
            rows.append(
                [
                    name,
                    f"{n_params(comparison) / 1e6:.0f}",
                    each.label,
                    f"{prefill[each.label].value:.0f}" if each.label in prefill else "-",
                    f"{each.value:.1f}",
                    str(against) if against else "the base",
                ]
            )
    return rows


def n_params(comparison: Comparison) -> int:
    """Return the number of weights of a comparison's first file."""
    return int(comparison.models[0]["model_n_params"])


def called(comparison: Comparison, entries: Sequence[tuple[str, str]]) -> bool:
    """Return whether these entries finished enough blocks to establish a difference between them."""
    blocks = [
        {m.block for m in comparison.measurements if (m.backend, m.model_type) == e and m.block >= 0}
        for e in entries
    ]
    return all(len(each) >= MIN_BLOCKS for each in blocks)
