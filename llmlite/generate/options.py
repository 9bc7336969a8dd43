"""The options of a text: the choice of tokens, the end of the text, its form."""

from __future__ import annotations

import difflib
import inspect
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from llmlite.sampling import Sampler
from llmlite.system.locks import fork_safe

if TYPE_CHECKING:
    from llmlite.generate.stops import Stop
    from llmlite.grammar import Grammar
    from llmlite.model import Model
    from llmlite.sampling import LogitsProcessor, Option

MAX_TOKENS = 256
SAMPLER_OPTIONS = frozenset(inspect.signature(Sampler).parameters)
FORMS = ("grammar", "json_schema", "regex", "constraint")
KEPT = 4  # grammars; each holds up to 48 MB of states and masks for a vocabulary
_kept: dict[tuple[str, str], Grammar] = {}
_lock = fork_safe(threading.Lock())


class SamplerOptions(TypedDict, total=False):
    """The options of `llmlite.Sampler`, which explains them; None means "not given"."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    top_n_sigma: float | None
    xtc_probability: float | None
    xtc_threshold: float | None
    dynatemp_range: float | None
    dynatemp_exponent: float | None
    repeat_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repeat_last_n: int | None
    dry_multiplier: float | None
    dry_base: float | None
    dry_allowed_length: int | None
    dry_penalty_last_n: int | None
    dry_breakers: Sequence[Sequence[int]] | None
    mirostat: Literal[0, 1, 2] | None
    mirostat_tau: float | None
    mirostat_eta: float | None
    logit_bias: Mapping[int, float] | None
    processors: Sequence[LogitsProcessor] | None
    seed: int | None
    chain: Sequence[Option] | None


class BatchOptions(SamplerOptions, total=False):
    """The options of a text in a batch; None means "not given".

    max_tokens: the maximum number of tokens to write (256).
    stop: one or several strings or token ids that end the text; a string that is the text of a control token
        means that token.
    sampler: a Sampler, or any function of logits (V,), or of logits and all ids so far, that chooses a token.
        It replaces every option of Sampler.
    grammar: GBNF text, or a `llmlite.grammar.Grammar`.
    json_schema: a JSON schema, as a mapping or as text.
    regex: a pattern that the whole text must match.
    constraint: the state of a grammar in use. Give at most one of these four.
    logprobs: keep each token's log-probability and those of this many of the likeliest tokens.
    prompt_logprobs: keep those of the prompt's tokens too.
    """

    max_tokens: int | None
    stop: Stop | None
    sampler: Callable[..., int] | None
    grammar: Any
    json_schema: Mapping[str, Any] | str | bool | None
    regex: str | None
    constraint: Any
    logprobs: int | None
    prompt_logprobs: bool | None


class TextOptions(BatchOptions, total=False):
    """The options of a text; None means "not given".

    draft: "prompt-lookup" proposes the tokens that followed the same tokens earlier in the text; a smaller
        model with the same vocabulary proposes its likeliest tokens. The text doesn't change.
    draft_tokens: the maximum number of tokens proposed at a time (8).
    """

    draft: Literal["prompt-lookup"] | Model | None
    draft_tokens: int | None


NAMES = frozenset(TextOptions.__annotations__)


def check_names(options: Mapping[str, Any], known: frozenset[str] = NAMES) -> None:
    """Refuse an unknown option, and suggest a similar one.

    Raises:
        TypeError: an option is unknown; names it.
    """
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise TypeError(f"no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that aren't None.

    Raises:
        TypeError: a name is unknown.
        ValueError: two options exclude each other.
    """
    check_names(options)
    found = {name: value for name, value in options.items() if value is not None}
    if len(forms := [name for name in FORMS if name in found]) > 1:
        raise ValueError(f"{' and '.join(forms)}: a text has only one form; pass one of them")
    if "sampler" in found and (both := sorted(SAMPLER_OPTIONS & set(found))):
        raise ValueError(f"sampler: it has its own options, so {', '.join(both)} would do nothing; drop one")
    if "chain" in found and (both := sorted(SAMPLER_OPTIONS & set(found) - {"chain", "seed"})):
        raise ValueError(f"chain: it replaces other options, so {', '.join(both)} would do nothing; drop one")
    return found


def make_sampler(options: Mapping[str, Any]) -> Callable[..., int]:
    """Return the sampler for the options.

    Raises:
        ValueError: an option is outside its range.
        TypeError: the sampler can't be called.
    """
    sampler = options.get("sampler")
    if sampler is None:
        return Sampler(**{name: options[name] for name in SAMPLER_OPTIONS if name in options})
    if not callable(sampler):
        raise TypeError(f"sampler: expected a Sampler or a function of logits, got {sampler!r:.80}")
    return sampler


def make_constraint(options: Mapping[str, Any], model: Model) -> Any:
    """Return the constraint for the options, or None.

    Raises:
        GrammarError: a grammar, schema or pattern is malformed.
        TypeError: a value has the wrong type.
    """
    name = next((name for name in FORMS if name in options), None)
    if name is None:
        return None
    value = options[name]
    if name == "constraint":
        if not all(hasattr(value, part) for part in ("mask", "accept", "finished")):
            raise TypeError(f"constraint: expected mask, accept and finished, got {value!r:.80}")
        return value
    return form(name, value).constrain(model.tokenizer)


def form(name: str, value: Any) -> Any:
    """Return the Grammar of "grammar", "json_schema" or "regex"; see `make_constraint` for errors.

    The last KEPT grammars are kept, with the states and masks that were computed for them, because the first
    text under a grammar costs more.
    """
    if hasattr(value, "constrain"):
        return value
    key = (name, repr(value))
    with _lock:
        found = _kept.pop(key, None)
    if found is None:
        found = _made(name, value)
    with _lock:
        _kept[key] = found
        while len(_kept) > KEPT:
            _kept.pop(next(iter(_kept)), None)  # the one that was used longest ago
    return found


def _made(name: str, value: Any) -> Grammar:
    from llmlite.grammar import Grammar

    if name == "json_schema":
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError as error:
                raise ValueError(f"json_schema: not JSON: {error}") from None
        if not isinstance(value, Mapping | bool):
            raise TypeError(f"json_schema: expected a mapping or its text, got {type(value).__name__}")
        return Grammar.from_json_schema(value)
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a text, got {type(value).__name__}")
    return Grammar(value) if name == "grammar" else Grammar.from_regex(value)
