"""Kernels and what bounds them: bytes of a step, the fastest writing that memory allows, the code itself."""

from __future__ import annotations

import ast
from pathlib import Path

from llmlite.bench.ladder import Ladder, RungStep, rungs
from llmlite.bench.roofline import Point, Roof
from llmlite.engine.families import FAMILIES
from llmlite.errors import UnsupportedError
from llmlite.model import Model
from llmlite.quants import by_name

CHOICES = ("less than 10", "10 to 100", "more than 100")  # how many times faster the ladder's last rung is
KERNELS = Path(__file__).resolve().parent.parent / "engine" / "kernels"


def arithmetic(type_name: str) -> str:
    """Return how the kernels multiply weights of a type: "int8" (as bytes) or "f32"; for no type "f32"."""
    family = FAMILIES.get(by_name(type_name).id) if type_name else None
    return "int8" if family and family.sub else "f32"


def best_speed(step: RungStep) -> float:
    """Return GB of weights per second in the fastest run, which a busy neighbour disturbs least."""
    return step.bytes / step.best_ns


def climbed(found: Ladder, type_name: str = "Q4_0") -> str:
    """Return which of CHOICES says how many times faster the last rung is than the first."""
    speeds = {step.rung: best_speed(step) for step in found.steps if step.type == type_name}
    factor = speeds[rungs()[-1].name] / speeds[rungs()[0].name]
    return CHOICES[(factor >= 10) + (factor > 100)]


def bound(point: Point, roof: Roof) -> str:
    """Return which of the two roofs is the lower one for an operation: "memory" or "arithmetic"."""
    return "memory" if point.intensity < roof.ridge(arithmetic(point.type)) else "arithmetic"


def reached(point: Point, roof: Roof) -> float:
    """Return an operation's speed as a share of its roof; above 1 if its weights came from a cache."""
    return point.ops_per_second / roof.limit(point.intensity, arithmetic(point.type))


def weight_bytes(model: Model) -> int:
    """Return the bytes of weights that one decoding step reads: those of all layers, the norms, the output.

    Of the token embeddings a step reads one row; if they serve as the output matrix too, all of them.
    """
    weights = model.weights
    tensors = [w for layer in weights.layers for w in layer.values()]
    tensors += [weights.output_norm, weights.output]
    return sum(int(w.n_bytes if hasattr(w, "n_bytes") else w.nbytes) for w in tensors)


def kind(point: Point) -> str:
    """Return an operation's matrix ("ffn_up", …, "output"); without one what it does ("rms_norm", …)."""
    if not point.type:
        common = ("attention", "embed", "store")  # kernels of these are named by type too
        return next((name for name in common if point.operation.startswith(name)), point.operation)
    name = point.label.removesuffix(".weight").rpartition(".")[2]
    return "output" if name == "token_embd" else name


def source(module: str, name: str) -> str:
    """Return the text of a kernel from llmlite/engine/kernels/MODULE.py.

    Raises:
        UnsupportedError: no such file, or no such function in it.
    """
    path = KERNELS / f"{module}.py"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return ast.get_source_segment(text, node) or ""
    raise UnsupportedError(f"no kernel {name!r} in llmlite/engine/kernels/{module}.py")
