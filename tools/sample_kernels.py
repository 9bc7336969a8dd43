"""Take the figures that lesson 07 ships: data/samples/ladder.json and data/samples/roofline.json.

    python tools/sample_kernels.py MODEL.gguf NAME      (a model to measure: llmlite synth --help)

For a machine that others use too: rounds are spread over minutes. The ladder keeps every run of every round.
The roof is the best of all rounds, and each operation's time the shortest: what the machine can do when it is
left alone, above and below the roof alike.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace

from llmlite import load
from llmlite.bench import environment
from llmlite.bench.ladder import Ladder, measure_ladder
from llmlite.bench.roofline import Point, Roof, Roofline, measure_roof, roofline_points
from llmlite.resources import data_path

STEPS = {"decode": 1, "prefill 64": 64, "prefill 256": 256}


def best_roof(a: Roof, b: Roof) -> Roof:
    """Return the higher of two measurements, limit by limit."""
    return Roof(**{name: max(value, asdict(b)[name]) for name, value in asdict(a).items()})


def fastest(a: list[Point], b: list[Point]) -> list[Point]:
    """Return each operation with the shorter of its two times."""
    return [x if x.nanoseconds <= y.nanoseconds else y for x, y in zip(a, b, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("name", help="of the model, for the figure")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--pause", type=float, default=3.0, help="seconds between rounds")
    options = parser.parse_args()
    model = load(options.model, n_ctx=512, executor="planned")
    roof, ladder, points = measure_roof(), measure_ladder(repeats=3, roof=False), {}
    for number in range(options.rounds):
        roof = best_roof(roof, measure_roof(repeat=10))
        for step, n_tokens in STEPS.items():
            found = roofline_points(model, n_tokens, repeat=3)
            points[step] = fastest(points.get(step, found), found)
        again = measure_ladder(repeats=3, roof=False)
        ladder.steps = [
            replace(old, samples_ns=old.samples_ns + new.samples_ns)
            for old, new in zip(ladder.steps, again.steps, strict=True)
        ]
        print(f"round {number + 1}: memory {roof.bytes_per_second / 1e9:.1f} GB/s", flush=True)
        time.sleep(options.pause)
    place = environment.record()
    Ladder(environment=place, steps=ladder.steps, roof=roof).save(data_path() / Ladder.SAMPLE)
    roofline = Roofline(environment=place, model=options.name, roof=roof, points=points)
    roofline.save(data_path() / Roofline.SAMPLE)


if __name__ == "__main__":
    main()
