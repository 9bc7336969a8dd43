"""Turn a request's fields into the options of `Batch.add`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from llmlite.sampling import Sampler
from llmlite.serve.faults import Fault

NEUTRAL: dict[str, Any] = {  # values without an effect
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "typical_p": 1,
    "logit_bias": {},
}
SPELLINGS = {  # a field of a request -> the sampler's possible names for it
    "repetition_penalty": ("repetition_penalty", "repeat_penalty"),
    "typical_p": ("typical_p", "typical"),
}
FIELDS = (
    *("temperature", "top_k", "top_p", "min_p", "typical_p"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "repeat_last_n", "logit_bias", "seed"),
)


@cache
def known() -> frozenset[str]:
    """Return the names of a sampler's options."""
    return frozenset(inspect.signature(Sampler).parameters)


def sampling(values: Mapping[str, Any], n_vocab: int) -> dict[str, Any]:
    """Return the sampler's options for these fields of a request. None and neutral values are left out.

    Raises:
        Fault: If an option is out of range, or this version's sampler doesn't have it.
    """
    found: dict[str, Any] = {}
    for name in FIELDS:
        value = values.get(name)
        if value is None or (name in NEUTRAL and value == NEUTRAL[name]):
            continue
        if name == "logit_bias":
            value = _bias(value, n_vocab)
        spelled = next((each for each in SPELLINGS.get(name, (name,)) if each in known()), None)
        if spelled is None:
            raise Fault(400, f"{name}: this version's sampler has no such option", param=name)
        found[spelled] = value
    try:
        Sampler(**found)
    except (ValueError, TypeError) as error:
        raise Fault(400, str(error)) from None
    return found


def _bias(value: Mapping[str, Any], n_vocab: int) -> dict[int, float]:
    """Return OpenAI's logit_bias (a dict from token ids as text to -100 … 100) with ids as integers."""
    found = {}
    for key, bias in value.items():
        if not key.isascii() or not key.isdigit() or int(key[:12]) >= n_vocab or len(key) > 12:
            raise Fault(
                400, f"logit_bias: expected token ids below {n_vocab}, got {key!r:.40}", param="logit_bias"
            )
        if not isinstance(bias, (int, float)) or isinstance(bias, bool) or not abs(bias) <= 100:
            raise Fault(400, f"logit_bias: expected -100 to 100, got {bias!r:.40}", param="logit_bias")
        found[int(key)] = bias
    return found


def stops(value: str | list[str] | None) -> list[str]:
    """Return the texts that end an answer.

    Raises:
        Fault: If one is empty.
    """
    found = [value] if isinstance(value, str) else list(value or ())
    if "" in found:
        raise Fault(400, "stop: a text must not be empty", param="stop")
    return found


def constraint(request: Any) -> dict[str, Any]:
    """Return json_schema, grammar or regex, as given by `response_format`, `grammar` or `regex`.

    Raises:
        Fault: If there is more than one of them, or a schema is missing.
    """
    found: dict[str, Any] = {}
    form = request.response_format
    if form is not None and form.type == "json_object":
        found["json_schema"] = {"type": "object"}
    elif form is not None and form.type == "json_schema":
        if form.json_schema is None or form.json_schema.schema_ is None:
            name = "response_format.json_schema.schema"
            raise Fault(400, f"{name}: missing", param=name, code="missing_field")
        found["json_schema"] = form.json_schema.schema_
    for name in ("grammar", "regex"):
        if getattr(request, name):
            found[name] = getattr(request, name)
    if len(found) > 1:
        raise Fault(400, f"{' and '.join(found)}: give only one of them")
    return found
