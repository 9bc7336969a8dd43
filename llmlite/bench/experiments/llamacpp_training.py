"""Train the bundled model for a few steps with llama.cpp's experimental `llama_opt_epoch`, through ctypes.

llama-cpp-python has bindings for llama.cpp's functions but not for ggml's, which are declared here as in
ggml-opt.h.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from time import perf_counter
from typing import Any

import llama_cpp

from llmlite import resources

STEPS = 20
N_CTX = 256
LEARNING_RATE = 1e-4
F32, I32 = 0, 26  # enum ggml_type
ADAMW = 0  # enum ggml_opt_optimizer_type


class OptimizerParams(ctypes.Structure):
    """`ggml_opt_optimizer_params`: the parameters of AdamW, then those of SGD."""

    _fields_ = tuple(
        (name, ctypes.c_float) for name in ("alpha", "beta1", "beta2", "eps", "wd", "sgd_alpha", "sgd_wd")
    )


class OptParams(ctypes.Structure):
    """`llama_opt_params`; the package's own structure lacks the last field."""

    _fields_ = (
        ("n_ctx_train", ctypes.c_uint32),
        ("param_filter", ctypes.c_void_p),
        ("param_filter_ud", ctypes.c_void_p),
        ("get_opt_pars", ctypes.c_void_p),
        ("get_opt_pars_ud", ctypes.c_void_p),
        ("optimizer_type", ctypes.c_int),
    )


def run(ids: list[int]) -> dict[str, Any]:
    """Train for STEPS steps on the text `ids`; return the loss before and after, and the seconds.

    Args:
        ids: N_CTX + 1 tokens, because llama.cpp trains on whole contexts and rounds their length up to N_CTX.

    Raises:
        ValueError: there are more or fewer tokens.
    """
    n = N_CTX
    if len(ids) != n + 1:
        raise ValueError(f"expected {n + 1} tokens, got {len(ids)}")
    llama = llama_cpp.Llama(
        str(resources.model_path("tales:F32")), n_ctx=n, n_batch=n, n_ubatch=n, n_threads=1,
        n_threads_batch=1, type_k=F32, type_v=F32, use_mmap=False, flash_attn=False, verbose=False,
    )  # fmt: skip
    library = next((Path(llama_cpp.__file__).parent / "lib").glob("*ggml-base.*"))
    ggml, engine = ctypes.CDLL(str(library)), llama_cpp.llama_cpp._lib
    dataset, result = _dataset(ggml, ids), _pointer(ggml.ggml_opt_result_init)()
    rates = OptimizerParams(LEARNING_RATE, 0.9, 0.999, 1e-8, 0.0, LEARNING_RATE, 0.0)
    parameters = OptParams(
        param_filter=ctypes.cast(engine.llama_opt_param_filter_all, ctypes.c_void_p),
        get_opt_pars=ctypes.cast(ggml.ggml_opt_get_constant_optimizer_params, ctypes.c_void_p),
        get_opt_pars_ud=ctypes.cast(ctypes.pointer(rates), ctypes.c_void_p),
        optimizer_type=ADAMW,
    )
    start = engine.llama_opt_init
    start.argtypes, start.restype = (ctypes.c_void_p, ctypes.c_void_p, OptParams), None
    start(llama.ctx, llama.model, parameters)
    epoch = engine.llama_opt_epoch
    epoch.argtypes = (*[ctypes.c_void_p] * 4, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
    epoch.restype = None
    losses = []
    begin = perf_counter()
    for _ in range(STEPS + 1):
        ggml.ggml_opt_result_reset(ctypes.c_void_p(result))
        epoch(llama.ctx, dataset, result, None, 1, None, None)
        loss = ctypes.c_double()
        ggml.ggml_opt_result_loss(ctypes.c_void_p(result), ctypes.byref(loss), None)
        losses.append(loss.value)
    return {
        "steps": STEPS,
        "loss_before": losses[0],
        "loss_after": losses[-1],
        "seconds": perf_counter() - begin,
    }


def _pointer(function: Any, *arguments: Any) -> Any:
    function.restype, function.argtypes = ctypes.c_void_p, arguments
    return function


def _dataset(ggml: ctypes.CDLL, ids: list[int]) -> Any:
    """Return a data set of one text: its tokens, and for each the next token."""
    n = len(ids) - 1
    numbers = ctypes.c_int, ctypes.c_int, *[ctypes.c_int64] * 4
    dataset = _pointer(ggml.ggml_opt_dataset_init, *numbers)(I32, I32, n, n, 1, 1)
    parts = ((ggml.ggml_opt_dataset_data, ids[:-1]), (ggml.ggml_opt_dataset_labels, ids[1:]))
    for function, values in parts:
        tensor = _pointer(function, ctypes.c_void_p)(dataset)
        place = _pointer(ggml.ggml_get_data, ctypes.c_void_p)(tensor)
        ctypes.memmove(place, (ctypes.c_int32 * n)(*values), 4 * n)
    return dataset
