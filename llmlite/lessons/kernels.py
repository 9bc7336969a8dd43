"""Kernels and their limits: the bytes that a step reads, the roofs of the machine, and the source code."""

from __future__ import annotations

import ast
from pathlib import Path

from llmlite.bench.ladder import Ladder, RungStep, rungs
from llmlite.bench.roofline import Point, Roof
from llmlite.engine.families import FAMILIES
from llmlite.errors import UnsupportedError
from llmlite.model import Model
from llmlite.quants import by_name

CHOICES = ("less than 10", "10 to 100", "more than 100")  # the last rung's speed in multiples of the first's
KERNELS = Path(__file__).resolve().parent.parent / "engine" / "kernels"


def arithmetic(type_name: str) -> str:
    """Return the arithmetic in which kernels multiply weights of a type: "int8" or "f32".

    Args:
        type_name: the name of the type; "" for an operation without weights, which gives "f32".
    """
    family = FAMILIES.get(by_name(type_name).id) if type_name else None
    return "int8" if family and family.sub else "f32"


def best_speed(step: RungStep) -> float:
    """Return the GB of weights read per second in the fastest run, which other programs disturb least."""
    return step.bytes / step.best_ns


def climbed(found: Ladder, type_name: str = "Q4_0") -> str:
    """Return the choice, one of CHOICES, that fits the last rung's speed divided by the first rung's.

    Args:
        found: the measured ladder.
        type_name: the type whose rungs are compared.
    """
    speeds = {step.rung: best_speed(step) for step in found.steps if step.type == type_name}
    factor = speeds[rungs()[-1].name] / speeds[rungs()[0].name]
    return CHOICES[(factor >= 10) + (factor > 100)]


def bound(point: Point, roof: Roof) -> str:
    """Return which roof is the lower one for an operation: "memory" or "arithmetic"."""
    return "memory" if point.intensity < roof.ridge(arithmetic(point.type)) else "arithmetic"


def reached(point: Point, roof: Roof) -> float:
    """Return an operation's speed as a share of its roof.

    The share can be above 1 if the weights came from a cache of the processor.
    """
    return point.ops_per_second / roof.limit(point.intensity, arithmetic(point.type))


def weight_bytes(model: Model) -> int:
    """Return the bytes of weights that one decoding step reads: all layers, the norms, the output matrix.

    The one row of token embeddings that a step reads isn't counted. If the embeddings are the output matrix
    too, all of them are read and counted.
    """
    weights = model.weights
    tensors = [w for layer in weights.layers for w in layer.values()]
    tensors += [weights.output_norm, weights.output]
    return sum(int(w.n_bytes if hasattr(w, "n_bytes") else w.nbytes) for w in tensors)


def kind(point: Point) -> str:
    """Return an operation's matrix ("ffn_up", "output", …), or its name if it has none ("rms_norm", …)."""
    if not point.type:
        common = ("attention", "embed", "store")  # the names of these operations' kernels also contain a type
        return next((name for name in common if point.operation.startswith(name)), point.operation)
    name = point.label.removesuffix(".weight").rpartition(".")[2]
    return "output" if name == "token_embd" else name


def source(module: str, name: str) -> str:
    """Return the source code of a function in llmlite/engine/kernels/MODULE.py.

    Args:
        module: the name of the module.
        name: the name of the function.

    Raises:
        UnsupportedError: there is no such file, or no such function in it.
    """
    path = KERNELS / f"{module}.py"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return ast.get_source_segment(text, node) or ""
    raise UnsupportedError(f"no kernel {name!r} in llmlite/engine/kernels/{module}.py")
