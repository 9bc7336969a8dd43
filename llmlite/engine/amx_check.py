"""Decide whether AMX tiles are used in this process: only if they give the other kernels' bits and aren't
slower.

This code could be tested on few machines with AMX. So each process compares both kernels on a small product,
for each form of weights in its model, before it uses tiles. Because the bits are the same, only the speed
depends on the outcome.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from llmlite.engine import amx
from llmlite.engine.families import FAMILIES, Family
from llmlite.engine.plan import Plan, Share
from llmlite.engine.recorder import Recorder
from llmlite.errors import AMXWarning, KernelError
from llmlite.quants.tensor import QuantTensor

ROWS, N_TOKENS = 40, 141  # a whole tile of 32 rows and part of another; the same for tokens
REPEAT = 5
SLOWEST = 1.2  # times as long as the other kernel: slower tiles are not used. Short runs are noisy.
TYPES, WIDTH = ("Q8_0", "Q4_K", "Q6_K", "Q2_K"), 1024  # the types that `report` compares: one of each form


@dataclass(frozen=True)
class TileCheck:
    """Two kernels on the same product.

    Attributes:
        n_unlike: how many of the `n` numbers in the result have different bits.
        ratio: the other kernel's time over the tiles' time, each the minimum of REPEAT turns.
    """

    n_unlike: int
    n: int
    ratio: float


_compared: dict[tuple[int, bool], TileCheck] = {}


def usable(weights: Iterable[Any]) -> bool:
    """Return whether products of these weights with many tokens should use tiles.

    Args:
        weights: QuantTensors; plain types among them are ignored.

    Raises:
        LlmliteError: LLMLITE_AMX is not a valid choice.
    Warns:
        AMXWarning: the tiles gave different numbers, or their kernels can't be compiled or loaded.
    """
    if amx.refusal():
        return False
    try:
        found = [_of_form(form, w) for form, w in _forms(weights).items()]
    except KernelError as error:
        return _warn(str(error))
    if wrong := next((c for c in found if c.n_unlike), None):
        return _warn(f"{wrong.n_unlike} of {wrong.n} numbers differ from those of the other kernels")
    return bool(found) and (amx.choice() == "on" or all(c.ratio * SLOWEST >= 1 for c in found))


def _warn(reason: str) -> bool:
    text = f"AMX tiles are not used: {reason}; please report this with the output of `llmlite doctor --json`"
    warnings.warn(text, AMXWarning, stacklevel=3)
    return False


def report() -> tuple[bool, str]:
    """Compare a type of each form, for `llmlite doctor`.

    Returns:
        Whether everything is in order, and a short text that says whether tiles are used, and why.
    """
    if reason := amx.refusal():
        return True, f"not used: {reason}"
    rng = np.random.default_rng(1)
    made = {
        name: QuantTensor.quantize(rng.standard_normal((ROWS, WIDTH)).astype(np.float32), name, name)
        for name in TYPES
    }
    try:
        found = {name: _of_form(_form(FAMILIES[w.type.id]), w) for name, w in made.items()}
    except KernelError as error:
        return False, f"not used: granted by the system, but {error}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AMXWarning)
        used = usable(made.values())
    same = all(not c.n_unlike for c in found.values())
    bits = "the same bits as other kernels" if same else "DIFFERENT numbers from other kernels"
    ratios = ", ".join(f"{name} {c.ratio:.1f}" for name, c in found.items())
    return same, f"{'used' if used else 'not used'}: granted by the system; {bits}; times as fast: {ratios}"


def _form(family: Family) -> tuple[int, bool]:
    """Return the form of weights that selects a routine of `amx_emit`."""
    return family.sub, family.has_minimum


def _forms(weights: Iterable[Any]) -> dict[tuple[int, bool], Any]:
    """Return a matrix of each form among the weights."""
    found: dict[tuple[int, bool], Any] = {}
    for w in weights:
        family = FAMILIES.get(w.type.id)
        if family and family.sub and w.shape[-1] % 32 == 0:
            found.setdefault(_form(family), w)
    return found


def _of_form(form: tuple[int, bool], w: Any) -> TileCheck:
    if form not in _compared:
        _compared[form] = compare(w.slice_rows(0, min(ROWS, w.shape[-2])))
    return _compared[form]


def compare(w: QuantTensor) -> TileCheck:
    """Multiply w, (rows, width), by random activations with both kernels, in turns, on one thread.

    Raises:
        KernelError: a kernel can't be compiled or loaded.
    """
    x = np.random.default_rng(0).standard_normal((N_TOKENS, w.shape[1])).astype(np.float32)
    plans = []
    for tiles in (False, True):
        recorder = Recorder(max_tokens=N_TOKENS, max_outputs=1, n_threads=1, tiles=tiles)
        result = recorder.matmul(w, recorder.embed(QuantTensor.quantize(x, "F32"), None))
        plans.append(Plan(recorder, result))
    times, results = [np.inf, np.inf], [np.empty(0), np.empty(0)]
    for _ in range(REPEAT):
        for i, plan in enumerate(plans):
            with plan.lock:
                begin = perf_counter()
                found = plan.run([Share(range(N_TOKENS))])
                times[i] = min(times[i], perf_counter() - begin)
                results[i] = found.copy()
    n_unlike = int((results[0].view(np.uint32) != results[1].view(np.uint32)).sum())
    return TileCheck(n_unlike, results[0].size, times[0] / times[1])
