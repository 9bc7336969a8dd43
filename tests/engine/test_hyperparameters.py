"""Each key of a file is obeyed, known to change nothing, or refused by name and value, in every entry."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from llmlite.description.architectures import ARCHITECTURES
from llmlite.description.config import ModelConfig
from llmlite.description.hyperparameters import FEATURES, HARMLESS, Keys
from llmlite.description.weights import Weights
from llmlite.engine.eager import EagerExecutor
from llmlite.engine.kv_cache import KVCache
from llmlite.errors import ModelError, UnsupportedError
from tests.support.tiny_models import TinyModel, tiny_model

KINDS = [
    (name, {"n_expert": 4} if entry.expert_count_required else {}) for name, entry in ARCHITECTURES.items()
]
KINDS.append(("llama", {"n_expert": 4}))
EVERY = pytest.mark.parametrize(
    ("name", "options"), KINDS, ids=lambda value: "mixture" if value else value or "dense"
)
OBEYED_OTHERWISE = {"attention.sliding_window": "windows", "expert_count": "experts"}  # by these fields


def model_of(name: str, options: dict[str, Any]) -> TinyModel:
    return tiny_model(name, **options)


def read(model: TinyModel, **changes: Any) -> ModelConfig:
    """The configuration with some keys changed: `__` in a name is for a dot."""
    prefix = model.metadata["general.architecture"]
    added = {f"{prefix}.{key.replace('__', '.')}": value for key, value in changes.items()}
    return ModelConfig.from_metadata(model.metadata | added, model.tensors())


def logits(model: TinyModel, **changes: Any) -> np.ndarray:
    config = read(model, **changes)
    weights = Weights.from_tensors(model.tensors(), config)
    return EagerExecutor(weights, config)([1, 2, 3, 4, 5], KVCache(config, 8), n_outputs=5)


def obeys(name: str, key: str) -> bool:
    entry = ARCHITECTURES[name]
    if key.startswith("expert_shared"):
        return bool((entry.experts or {}).get("shared"))
    return key in entry.features or getattr(entry, OBEYED_OTHERWISE.get(key, ""), None) is not None


def unusual(neutral: Any) -> list[Any]:
    """Values that ask for something."""
    if isinstance(neutral, bool):
        return [not neutral]
    return [3, 0.37]


@EVERY
@pytest.mark.parametrize("value", [0.37, 3, True, "x", [1, 2]], ids=str)
def test_an_unknown_key_is_refused_by_name_and_value(name: str, options: dict[str, Any], value: Any) -> None:
    model = model_of(name, options)
    with pytest.raises(UnsupportedError) as caught:
        read(model, attention__no_such_key=value)
    assert f"{name}.attention.no_such_key: {value!r}" in str(caught.value)


@EVERY
@pytest.mark.parametrize("key", FEATURES)
def test_a_feature_that_an_architecture_lacks_is_refused_unless_its_value_asks_for_nothing(
    name: str, options: dict[str, Any], key: str
) -> None:
    if obeys(name, key):
        pytest.skip(f"{name} obeys {key}")
    model, neutral = model_of(name, options), FEATURES[key]
    for value in unusual(neutral):
        with pytest.raises(UnsupportedError, match=re.escape(f"{name}.{key}: ")) as caught:
            read(model, **{key: value})
        assert str(value) in str(caught.value)
    if neutral is not None:
        assert read(model, **{key: neutral}) == read(model)


@EVERY
def test_a_number_that_is_not_finite_is_refused_in_every_feature(name: str, options: dict[str, Any]) -> None:
    model = model_of(name, options)
    for key, neutral in FEATURES.items():
        for value in (float("nan"), float("inf")):
            with pytest.raises((ModelError, UnsupportedError), match=re.escape(f"{name}.{key}")):
                read(model, **{key: value})
        if isinstance(neutral, bool):
            with pytest.raises(ModelError, match="true or false"):
                read(model, **{key: 1})


@EVERY
def test_harmless_keys_change_no_logits(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, keys = model_of(name, options), []
    refuse_unread = Keys.refuse_unread

    def noted(self: Keys) -> None:
        keys.append(self)
        refuse_unread(self)

    with monkeypatch.context() as patch:
        patch.setattr(Keys, "refuse_unread", noted)
        read(model)
    unread = HARMLESS.keys() - keys[0]._read
    assert len(unread) >= 10  # those read are obeyed
    plain = logits(model)
    for key in unread:
        for value in (3, 0.37):
            assert read(model, **{key: value}) == read(model), key
    np.testing.assert_array_equal(logits(model, **dict.fromkeys(unread, 3)), plain)


@EVERY
@pytest.mark.parametrize("key", ["rope.freq_base", "rope.scaling.factor", "rope.scaling.attn_factor"])
def test_keys_of_positions_are_obeyed(name: str, options: dict[str, Any], key: str) -> None:
    if not ARCHITECTURES[name].rope_pairs:
        pytest.skip(f"{name} has no RoPE")
    # six layers: at least one of them sees everything, whatever the pattern of windows
    model = tiny_model(name, **options, n_layer=6 if ARCHITECTURES[name].windows else 2)
    if ARCHITECTURES[name].latent and key == "rope.scaling.factor":  # only with yarn
        with pytest.raises(UnsupportedError, match=re.escape(f"{name}.{key}: 7")):
            read(model, **{key: 7.0})
        return
    assert np.abs(logits(model, **{key: 7.0}) - logits(model)).max() > 1e-3


def test_every_feature_and_harmless_key_says_one_thing_only() -> None:
    assert not FEATURES.keys() & HARMLESS.keys()
    for entry in ARCHITECTURES.values():
        assert set(entry.features) <= FEATURES.keys() | {"rope.scaling.finetuned"}, entry.name
