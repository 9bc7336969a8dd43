"""Say which type of a model fits this machine: memory, speed and quality, with the arithmetic.

Bandwidth and overhead are measured on this machine, in a few seconds. Quality is the loss that each type
causes in the bundled model. In another model the loss may be more or less.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from llmlite.cli.compare import names
from llmlite.cli.run import number
from llmlite.terminal import say

HELP = "say which type of a model fits this machine"
EXAMPLES = """\
examples:
  llmlite advise model.gguf                    the best type for this model
  llmlite advise 7B                            for a size alone; the KV cache isn't counted
  llmlite advise smollm2 --ctx-size 8192 --speed 20
  llmlite advise --check tales:Q4_0,smollm2    predictions beside measurements; exit code 1 if one is off by
                                               more than 25 %

A prediction is bytes of weights / bandwidth + matrices x overhead. Run it on a quiet machine.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("model", nargs="?", metavar="FILE|SIZE", help='a GGUF file, "smollm2", or "7B"')
    chosen.add_argument("--check", type=names, metavar="A,B", help="compare predictions with measurements")
    parser.add_argument(
        "-c", "--ctx-size", type=number(int, 1), default=2048, metavar="N", help="context (default: 2048)"
    )
    parser.add_argument(
        "--speed", type=number(float, 0.0), default=10.0, metavar="N", help="tokens/s wanted (default: 10)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    from llmlite.bench import advice

    if options.check:
        return check(options.check, options.json)
    model = advice.describe(options.model)
    machine = advice.measure_machine()
    found = advice.advise(model, machine, n_ctx=options.ctx_size, losses=losses())
    best = advice.best(found, options.speed, model.type)
    if options.json:
        record = {
            "model": model.name,
            "advice": best.type if best else None,
            "types": [each.as_record() for each in found],
        }
        say(json.dumps(record, indent=2))
        return 0
    say(f"{model.name}: {model.n_params / 1e6:,.0f} M weights, {model.n_layer} layers")
    if model.note:
        say(f"note: {model.note}")
    say(f"{'type':<6}{'bits':>6}{'memory MB':>12}{'fits':>6}{'tokens/s':>10}{'KL nats':>10}")
    for each in found:
        fits = {True: "yes", False: "NO", None: "?"}[each.fits]
        kl = "-" if each.kl is None else f"{each.kl:.2g}"
        say(
            f"{each.type:<6}{each.bits:>6.3g}{each.memory / 1e6:>12,.0f}{fits:>6}"
            f"{each.tokens_per_second:>10,.0f}{kl:>10}"
        )
    if best is None:
        say("no type fits the memory available: choose a smaller model")
        return 0
    slow = best.tokens_per_second < options.speed
    why = "the fastest that fits; none reaches the speed asked for" if slow else "the best quality that fits"
    if best.type == model.type:
        why = f"the file as it is: {why}"
    say(f"\nadvice: {best.type}, {why} ({options.speed:g} tokens/s or more)")
    if model.type and best.type != model.type:
        say("make it from the unquantized model: quantizing twice loses more")
    for line in best.arithmetic:
        say(f"  {line}")
    return 0


def losses() -> list[tuple[str, float]]:
    """Return (type, KL divergence) of the bundled model in each type, as the sweep of types measured it."""
    from llmlite.lessons import type_sweep

    return [(p.name, p.kl) for p in type_sweep.shipped().points if p.scope == "tensors" and not p.imatrix]


def check(models: tuple[str, ...], as_json: bool) -> int:
    from llmlite.bench import advice

    found = advice.check_predictions(models, advice.measure_machine())
    if as_json:
        say(json.dumps([asdict(e) | {"predicted": e.predicted} for e in found], indent=2))
    else:
        for each in found:
            say(
                f"{each.model}: predicted {each.predicted:,.0f} tokens/s, measured {each.measured:,.0f}, "
                f"{each.error:+.0%}{'' if each.holds else ', OFF'}"
            )
    return 0 if all(each.holds for each in found) else 1
