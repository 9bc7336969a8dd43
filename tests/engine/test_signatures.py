"""Declarations of kernels against their bodies, and what a recorder does with a wrong argument."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import llmlite.engine.families  # declares the kernels of every type  # noqa: F401
from llmlite.engine import signatures
from llmlite.engine.jit import DECLARED, Kernel, KernelError, declare, optimised_ir
from llmlite.engine.recorder import Recorder
from llmlite.quants.tensor import QuantTensor


@pytest.mark.parametrize("kernel", DECLARED.values(), ids=lambda kernel: f"{kernel.module}.{kernel.name}")
def test_a_declaration_names_the_parameters_of_its_kernel(kernel: Kernel) -> None:
    function = getattr(importlib.import_module(f"llmlite.engine.kernels.{kernel.module}"), kernel.name)
    if kernel.parameters is not None:  # else a routine, which no recorder passes arguments to
        assert list(kernel.parameters) == function.llmlite_parameters


def test_a_kernel_declared_with_other_parameters_is_not_compiled() -> None:
    wrong = Kernel("basic", "add", ("rows", "a", "b", "width", "out"))
    with pytest.raises(KernelError, match="declared with the parameters rows a b width out, but takes"):
        optimised_ir(wrong)


def test_a_kernel_cannot_be_declared_twice_in_two_ways() -> None:
    assert declare("basic", "add", "rows a b out width") is signatures.ADD
    with pytest.raises((AssertionError, ValueError)):
        declare("basic", "add", "rows a b out")


@pytest.mark.parametrize("change", ["left out", "added", "renamed"])
def test_a_wrong_argument_fails_when_it_is_recorded(change: str) -> None:
    recorder = Recorder(max_tokens=2, max_outputs=1, n_threads=1)
    x = recorder.embed(QuantTensor.quantize(np.ones((2, 32), np.float32), "F32"), None)
    args = {"rows": x.rows, "a": x, "b": x, "out": x, "width": 32}
    if change in ("left out", "renamed"):
        del args["b"]
    if change in ("added", "renamed"):
        args["c"] = x
    with pytest.raises(TypeError, match="takes"):
        recorder._op(signatures.ADD, (x,), (x,), **args)
