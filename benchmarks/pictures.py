"""Draw every picture of the kit from stored measurements, for light and dark pages, with their data.

    python benchmarks/pictures.py                                    to results/pictures
    python benchmarks/pictures.py -o FOLDER --comparison FILE.jsonl --sizes FOLDER

Nothing is measured. --sizes is the folder of `llmlite compare --sizes`; without it, that picture is left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from llmlite import plots, resources
from llmlite.bench import timeline
from llmlite.bench.article import Claims
from llmlite.bench.roofline import Roofline
from llmlite.bench.samples import Comparison
from llmlite.lessons import type_sweep
from llmlite.plots.base import Picture
from llmlite.system import files

ROOT = Path(__file__).resolve().parent.parent


def builders(comparison: Comparison, sizes: dict[str, Comparison]) -> dict[str, Callable[[str], Picture]]:
    """Return file name -> function that draws the picture in a theme."""
    roofline = Roofline.sample()
    lines = timeline.load(resources.data_path("samples/memory-timeline.jsonl"))
    points = type_sweep.shipped().points
    found: dict[str, Callable[[str], Picture]] = {
        "comparison": lambda theme: plots.comparison(comparison, theme=theme),
        "token-times": lambda theme: plots.sweeps.token_times(comparison, theme=theme),
        "roofline-decode": lambda theme: plots.kernels.roofline(roofline, "decode", theme=theme),
        "roofline-prefill": lambda theme: plots.kernels.roofline(roofline, "prefill 256", theme=theme),
        "profile-decode": lambda theme: plots.kernels.profile(roofline, "decode", theme=theme),
        "profile-prefill": lambda theme: plots.kernels.profile(roofline, "prefill 256", theme=theme),
        "quality-size": lambda theme: plots.type_sweep.scatter(points, theme=theme),
        "memory": lambda theme: plots.memory.timelines(lines, theme=theme),
        "claims": lambda theme: plots.claims.table(Claims.sample(), theme=theme),
    }
    if sizes:
        found["sizes-decode"] = lambda theme: plots.sweeps.sizes(sizes, "decode", theme=theme)
        found["sizes-prefill"] = lambda theme: plots.sweeps.sizes(sizes, "prefill", theme=theme)
    return found


def main() -> None:
    """Draw the pictures and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("results/pictures"))
    parser.add_argument(
        "--comparison", type=Path, default=ROOT / "docs/measurements/smollm2/comparison.jsonl"
    )
    parser.add_argument("--sizes", type=Path)
    options = parser.parse_args()
    sizes = {}
    if options.sizes:
        paths = sorted(options.sizes.glob("*/comparison.jsonl"))
        found = {path.parent.name: Comparison.load(path) for path in paths}
        sizes = dict(sorted(found.items(), key=lambda each: each[1].models[0]["model_n_params"]))
    for name, draw in builders(Comparison.load(options.comparison), sizes).items():
        for theme in ("light", "dark"):
            picture = draw(theme)
            plots.save(picture, options.output / f"{name}-{theme}.png")
        files.write_text(options.output / f"{name}.json", json.dumps(picture.series()) + "\n")
        print(f"{name}: {picture.alt[:150]}")


if __name__ == "__main__":
    main()
