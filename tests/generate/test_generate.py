"""A Generation against a scripted model: what it hands out, when it stops, what it counts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from llmlite.generate import Generation, StopStrings
from llmlite.tokenizers import Tokenizer, from_metadata
from tests.support.tiny_models import tiny_model

TOKENIZER = from_metadata(tiny_model().metadata)
EOS = TOKENIZER.eos_id


class Scripted:
    """Says its tokens in order, whatever the prompt; records what it was asked."""

    def __init__(self, tokens: Sequence[int], n_ctx: int = 100) -> None:
        self.tokens = list(tokens)
        self.n_ctx = n_ctx
        self.tokenizer: Tokenizer = TOKENIZER
        self.asked: list[list[int]] = []

    def _next_logits(self, ids: list[int]) -> tuple[int, np.ndarray]:
        self.asked.append(ids)
        logits = np.zeros(TOKENIZER.n_vocab, np.float32)
        logits[self.tokens[len(self.asked) - 1]] = 1
        return 0, logits


def greedy(logits: np.ndarray) -> int:
    return int(logits.argmax())


def run(text: str | Sequence[int], *, max_tokens: int = 50, n_ctx: int = 100, stop: Sequence[str] = ()):
    tokens = TOKENIZER.encode(text) if isinstance(text, str) else text
    model = Scripted([*tokens, EOS], n_ctx)
    generation = Generation(model, [1, 2, 3], max_tokens=max_tokens, sampler=greedy, stop=stop)
    return list(generation), generation, model


def test_pieces_join_to_the_text_and_eos_ends_it() -> None:
    pieces, generation, model = run("the inner sea")
    assert "".join(pieces) == generation.text == "the inner sea"
    assert generation.stop_reason == "eos"
    assert EOS not in generation.ids
    assert model.asked[0] == [1, 2, 3]
    assert model.asked[2] == [1, 2, 3, *generation.ids[:2]]


def test_work_is_done_as_it_is_asked_for() -> None:
    model = Scripted([*TOKENIZER.encode("abcdef"), EOS])
    generation = Generation(model, [1], max_tokens=9, sampler=greedy)
    assert not model.asked
    assert (next(generation), next(generation)) == ("a", "b")
    assert len(model.asked) == 2
    assert generation.stop_reason is None


def test_a_character_is_never_split() -> None:
    pieces, _, _ = run("naïve 🦊!")
    assert len(TOKENIZER.encode("🦊")) == 4
    assert "🦊" in pieces
    assert "".join(pieces) == "naïve 🦊!"
    assert "\ufffd" not in "".join(pieces)


def test_bytes_that_stay_incomplete_come_at_the_end() -> None:
    pieces, _, _ = run(TOKENIZER.encode("ok🦊")[:-1])
    assert "".join(pieces) == "ok\ufffd"


def test_max_tokens_and_the_context_end_it() -> None:
    _, generation, _ = run("abcdef", max_tokens=3)
    assert (generation.text, generation.stop_reason) == ("abc", "length")
    _, generation, model = run("abcdef", n_ctx=5)
    # Positions 3 and 4 are left for two tokens; a third is chosen from them and needs no place.
    assert (generation.text, generation.stop_reason) == ("abc", "length")
    assert len(model.asked[-1]) == 5
    _, generation, model = run("abc", max_tokens=0)
    assert (generation.text, generation.stop_reason, model.asked) == ("", "length", [])


def test_control_tokens_are_not_shown() -> None:
    start = TOKENIZER.token_id("<|im_start|>")
    pieces, generation, _ = run([*TOKENIZER.encode("a"), start, *TOKENIZER.encode("b")])
    assert "".join(pieces) == "ab"
    assert start in generation.ids


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one. two. three", [". t"], "one"),
        ("one. two", ["two", "one"], ""),
        ("aaab", ["aab"], "a"),
        ("ababac", ["abac"], "ab"),
        ("abcabd", ["abcabx", "bd"], "abca"),
        ("no stop", ["zzz", "stops"], "no stop"),
    ],
)
def test_stop_strings_end_the_text_before_them(text: str, stop: list[str], expected: str) -> None:
    pieces, generation, _ = run(text, stop=stop)
    assert "".join(pieces) == generation.text == expected
    assert generation.stop_reason == ("eos" if expected == text else "stop")


def test_a_stop_string_in_any_cut_is_found() -> None:
    text, stop = "xaabaabaaaby", "aabaaab"
    for cut in range(1, 2 ** (len(text) - 1), 7):
        pieces, start = [], 0
        for i in range(1, len(text) + 1):
            if i == len(text) or cut >> (i - 1) & 1:
                pieces.append(text[start:i])
                start = i
        stops = StopStrings([stop])
        assert "".join(map(stops.push, pieces)) == "xaab"
        assert stops.found


@pytest.mark.parametrize("stop", [["bc", "abcd"], ["abcd", "bc", "c"], ["cd", "bcd"], ["d", "abcd", "ab"]])
def test_the_pieces_of_a_text_make_no_difference_to_where_it_stops(stop: list[str]) -> None:
    text, results = "xabcdx", set()
    for cuts in itertools.product((False, True), repeat=len(text) - 1):
        places = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(text)]
        stops = StopStrings(stop)
        results.add("".join(stops.push(text[a:b]) for a, b in itertools.pairwise(places)))
    assert len(results) == 1, results


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens must be 0 or more, got -1"):
        run("a", max_tokens=-1)
    with pytest.raises(ValueError, match="a stop string must not be empty"):
        run("a", stop=["x", ""])


def test_speeds_count_their_own_tokens() -> None:
    _, generation, _ = run("abcdef")
    assert generation.n_prompt == 3
    assert generation.prompt_tokens_per_second == pytest.approx(3 / generation.prompt_seconds)
    # six letters and the EOS: the first letter's time is the prompt's
    assert generation.decode_tokens_per_second == pytest.approx(6 / generation.decode_seconds)
    assert "6 tokens, stop_reason='eos'" in repr(generation)
