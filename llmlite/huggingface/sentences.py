"""Read the modules of a sentence-transformers folder, which turn a text's states into one embedding."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from llmlite.errors import ModelError, UnsupportedError
from llmlite.huggingface.safetensors import read_folder, read_json, read_json_list, shown
from llmlite.quants.tensor import QuantTensor

MODULES = "modules.json"
POOLINGS = {"mean": 1, "cls": 2, "lasttoken": 3}  # theirs -> the number in a GGUF file (config.POOLING)
LINEAR = "torch.nn.modules.linear.Identity"


def _modules(folder: str, kind: str) -> list[str]:
    """Return the folders of the modules of this kind, in order; none without modules.json."""
    path = os.path.join(folder, MODULES)
    if not os.path.exists(path):
        return []
    found = []
    for module in read_json_list(path):
        if not isinstance(module, dict) or not isinstance(module.get("type"), str):
            raise ModelError(f"{path}: expected a list of modules, each with a type, got {shown(module)}")
        if module["type"].rpartition(".")[2] == kind:
            inner = str(module.get("path", ""))
            where = os.path.normpath(os.path.join(folder, inner))
            if os.path.isabs(inner) or os.path.commonpath([where, os.path.normpath(folder)]) != (
                os.path.normpath(folder)
            ):
                raise ModelError(f"{path}: path: expected a folder inside this one, got {shown(inner)}")
            found.append(where)
    return found


def pooling(folder: str) -> dict[str, Any]:
    """Return the key `pooling_type`; nothing if the folder doesn't have it.

    Raises UnsupportedError for a kind of pooling that a GGUF file can't express.
    """
    folders = _modules(folder, "Pooling")
    if not folders:
        return {}
    path = os.path.join(folders[0], "config.json")
    values = read_json(path)
    modes = {
        "mean": values.get("pooling_mode_mean_tokens"),
        "cls": values.get("pooling_mode_cls_token"),
        "lasttoken": values.get("pooling_mode_lasttoken"),
        "max": values.get("pooling_mode_max_tokens"),
        "mean_sqrt_len": values.get("pooling_mode_mean_sqrt_len_tokens"),
        "weightedmean": values.get("pooling_mode_weightedmean_tokens"),
    }
    chosen = [mode for mode, wanted in modes.items() if wanted]
    if isinstance(values.get("pooling_mode"), str):
        chosen = [values["pooling_mode"]]
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise UnsupportedError(
            f"{path}: pooling by {' and '.join(map(shown, chosen)) or 'nothing'} is not supported; "
            f"supported are {', '.join(POOLINGS)}"
        )
    return {"pooling_type": POOLINGS[chosen[0]]}


def dense(folder: str, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, QuantTensor]]:
    """Return the keys, and the tensors under GGUF's names, of matrices that are applied to pooled states.

    Raises UnsupportedError for a bias, an activation, or more matrices than `names`.
    """
    folders = _modules(folder, "Dense")
    if len(folders) > len(names):
        raise UnsupportedError(f"{folder}: {MODULES}: a module Dense is not supported in this architecture")
    keys: dict[str, Any] = {}
    tensors = {}
    for name, inner in zip(names, folders):
        path = os.path.join(inner, "config.json")
        values = read_json(path)
        if values.get("bias") or values.get("activation_function", LINEAR) != LINEAR:
            raise UnsupportedError(f"{path}: only a matrix without bias and activation is supported")
        found = read_folder(inner)
        matrix = found.get("linear.weight")
        if matrix is None or len(matrix.shape) != 2:
            raise ModelError(f"{inner}: expected a matrix linear.weight, got {shown(list(found))}")
        keys[f"{name}_feat_out"], keys[f"{name}_feat_in"] = (np.uint32(n) for n in matrix.shape)
        tensors[f"{name}.weight"] = matrix
    return keys, tensors
