"""The Python API: names, options, what they refuse, and what each method gives back."""

from __future__ import annotations

import asyncio
import json
import math
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite.chat.tool_calls import with_marks
from llmlite.errors import ChatTemplateError, ModelError
from llmlite.generate.options import SAMPLER_OPTIONS, SamplerOptions
from llmlite.model import Model
from tests.support.tiny_models import tiny_model

TOOLS = "{% if tools %}T{{ tools | length }}{% endif %}{% if enable_thinking %}think{% endif %}"
PLAIN = "{{ messages[0]['content'] }}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    made = tiny_model(n_ctx=512, seed=3)
    made.metadata["tokenizer.chat_template"] = TOOLS + PLAIN
    made.metadata["tokenizer.chat_template.short"] = "S" + PLAIN
    return ll.load(made.write(tmp_path_factory.mktemp("m") / "tiny.gguf"), executor="planned")


def test_the_front_door_lists_public_names_only() -> None:
    names = set(dir(ll))
    assert {"Generation", "Batch", "convert_folder", "Model", "load"} <= names
    leaked = {
        name for name in names - set(ll.__all__) if isinstance(getattr(ll, name, None), types.ModuleType)
    }
    assert not leaked
    assert "TYPE_CHECKING" not in names


def test_every_option_of_the_sampler_is_an_option_of_a_text(model: Model) -> None:
    assert set(SamplerOptions.__annotations__) == SAMPLER_OPTIONS
    sampler = ll.Sampler(temperature=1.0, min_p=0.01, repeat_penalty=1.3, seed=4)
    want = model.generate("the sea", max_tokens=30, sampler=sampler)
    got = model.generate("the sea", max_tokens=30, temperature=1.0, min_p=0.01, repeat_penalty=1.3, seed=4)
    assert got == want


def test_none_means_not_given(model: Model) -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ["temperature", "top_k", "stop", "max_tokens", "sampler", "draft"]
    )
    assert model.generate("the", seed=1, **nothing) == model.generate("the", seed=1)


def test_wrong_options_are_refused_by_name(model: Model) -> None:
    with pytest.raises(TypeError, match="no option 'temprature'; did you mean 'temperature'"):
        model.generate("the", temprature=0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no option 'temprature'"):
        model.chat("the", temprature=0)
    with pytest.raises(ValueError, match="sampler: it has its own options, so top_k would do nothing"):
        model.generate("the", sampler=ll.Sampler(), top_k=3)
    with pytest.raises(ValueError, match="chain: it replaces other options, so temperature, top_k would do"):
        model.generate("the", chain=[], temperature=0, top_k=3, seed=1)
    with pytest.raises(ValueError, match="grammar and regex: a text has only one form"):
        model.generate("the", grammar='root ::= "a"', regex="a")
    with pytest.raises(ValueError, match="logprobs must be 0 or more"):
        model.generate("the", logprobs=-1)
    with pytest.raises(TypeError, match="sampler: expected"):
        model.generate("the", sampler=3)  # type: ignore[arg-type]


def test_a_text_stops_at_strings_ids_and_control_tokens(model: Model) -> None:
    free = model.stream("the sea", max_tokens=40, temperature=1, seed=2)
    list(free)
    stop = next(i for i in free.ids[3:] if i not in free.ids[:3])
    got = model.stream("the sea", max_tokens=40, temperature=1, seed=2, stop=stop)
    list(got)
    assert (got.stop_reason, got.ids) == ("stop", free.ids[: free.ids.index(stop)])
    start = model.tokenizer.token_id("<|im_start|>")
    said = iter([5, 6, start, 7])
    got = model.stream("the", sampler=lambda logits: next(said), stop=["<|im_start|>", "zz"])
    list(got)
    assert (got.stop_reason, got.ids) == ("stop", [5, 6])
    for wrong in (b"the", {"the": 1}):
        with pytest.raises(TypeError, match=f"stop: expected texts or token ids, got {type(wrong).__name__}"):
            model.stream("the", stop=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stop: token 100000 is not in the vocabulary"):
        model.stream("the", stop=[100000])


def test_logprobs_are_the_log_softmax_of_the_logits(model: Model) -> None:
    ids = model.tokenize("the inner sea")
    generation = model.stream(ids, max_tokens=6, temperature=0, logprobs=3, prompt_logprobs=True)
    list(generation)
    rows = model.logits([*ids, *generation.ids]).astype(np.float64)
    shifted = rows - rows.max(-1, keepdims=True)
    exact = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    assert generation.prompt_logprobs is not None
    assert generation.logprobs is not None
    assert generation.prompt_logprobs[0] is None
    for at, found in enumerate([*generation.prompt_logprobs[1:], *generation.logprobs], 1):
        token = [*ids, *generation.ids][at]
        assert found is not None
        assert found.id == token
        assert found.logprob == pytest.approx(exact[at - 1, token], abs=1e-12)
        best = np.argsort(-exact[at - 1], kind="stable")[:3]
        assert [i for i, _ in found.top] == best.tolist()
    assert generation.usage == {
        "prompt_tokens": len(ids), "cached_tokens": 0, "completion_tokens": 6, "total_tokens": len(ids) + 6,
    }  # fmt: skip


def test_logprobs_are_the_models_own_if_a_sampler_changes_its_logits(model: Model) -> None:
    def greedy(logits: np.ndarray) -> int:
        best = int(logits.argmax())
        logits[:] = 0
        return best

    want = model.stream("the sea", max_tokens=4, temperature=0, logprobs=2)
    got = model.stream("the sea", max_tokens=4, sampler=greedy, logprobs=2)
    assert (list(want), want.logprobs) == (list(got), got.logprobs)
    [made] = model.generate_batch(["the sea"], max_tokens=4, sampler=greedy, logprobs=2, details=True)
    assert made.logprobs == want.logprobs


def test_perplexity_is_exp_of_the_mean_loss(model: Model) -> None:
    texts = ["the inner sea on the other side", [5, 6, 7], [5]]
    got = model.perplexity(texts)
    for text, value in zip(texts[:2], got):
        ids = model.tokenize(text) if isinstance(text, str) else text
        rows = model.logits(ids).astype(np.float64)[:-1]
        logprobs = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
        assert value == pytest.approx(np.exp(-logprobs[np.arange(len(rows)), ids[1:]].mean()), rel=1e-9)
    assert math.isnan(got[2])
    assert model.perplexity(str(texts[0])) == got[0]


def test_a_batch_of_prompts_gives_what_each_gives_alone(model: Model) -> None:
    prompts = ["the sea", [5, 6, 7], "on the other side of the inner sea", "a"]
    options: dict[str, Any] = {"max_tokens": 20, "seed": 3, "temperature": 1.0}
    want = [model.generate(prompt, **options) for prompt in prompts]
    assert model.generate_batch(prompts, max_sequences=3, **options) == want
    sampler = ll.Sampler(seed=3, temperature=1.0)
    assert model.generate_batch(prompts, max_tokens=20, sampler=sampler) == want
    stops = [text[-1] for text in want]
    ended = [model.generate(prompt, stop=stops, **options) for prompt in prompts]
    assert ended != want
    assert model.generate_batch(prompts, stop=iter(stops), **options) == ended
    made = model.generate_batch(prompts, details=True, **options)
    assert [generation.text for generation in made] == want
    assert all(isinstance(generation, ll.Generation) for generation in made)


def test_texts_of_a_batch_with_a_sampler_without_a_seed_are_drawn_separately(model: Model) -> None:
    free: dict[str, Any] = {"temperature": 2.0, "top_k": 0, "top_p": 1.0}
    texts = model.generate_batch(["the"] * 4, max_tokens=12, sampler=ll.Sampler(**free))
    assert len(set(texts)) == 4
    assert len(set(model.generate_batch(["the"] * 4, max_tokens=12, sampler=ll.Sampler(seed=1, **free)))) == 1


def test_templates_variables_and_tools(model: Model) -> None:
    def text(*args: Any, **options: Any) -> str:
        return model.detokenize(model.chat_prompt(*args, **options))

    tools = [{"type": "function", "function": {"name": "f"}}]
    assert text("hi") == "hi"
    assert text("hi", tools=tools) == "T1hi"
    assert text("hi", enable_thinking=True) == "thinkhi"
    assert text("hi", template_variables={"enable_thinking": True}) == "thinkhi"
    assert text("hi", template="short") == "Shi"
    assert text("hi", template="{{ bos_token }}x") == "<|endoftext|>x"
    with pytest.raises(TypeError, match="no option 'content'"):  # an attribute, and a text
        text("hi", template="{{ messages[0].content }}{{ 'content' }}", content="x")
    assert set(model.chat_templates) == {"default", "short"}
    with pytest.raises(ModelError, match="this file has default, short"):
        text("hi", template="long")
    with pytest.raises(ChatTemplateError, match="doesn.t support tools"):
        text("hi", template="short", tools=tools)
    plain = model.chat_prompt("<|im_end|>")
    assert model.tokenizer.token_id("<|im_end|>") not in plain
    assert model.tokenizer.token_id("<|im_end|>") in model.chat_prompt("<|im_end|>", parse_special=True)


def test_a_message_that_names_the_first_token_does_not_replace_it(tmp_path: Path) -> None:
    made = tiny_model(n_ctx=64)
    made.metadata |= {"tokenizer.chat_template": PLAIN, "tokenizer.ggml.add_bos_token": True}
    model = ll.load(made.write(tmp_path / "tiny.gguf"), executor="eager")
    bos, name = model.tokenizer.bos_id, "<|endoftext|>"
    assert model.chat_prompt(f"{name}hi").count(bos) == 1 == model.chat_prompt("hi").count(bos)
    assert model.detokenize(model.chat_prompt(f"{name}hi")) == f"{name}{name}hi"
    assert model.chat_prompt(f"{name}hi", parse_special=True) == model.chat_prompt("hi")
    assert model.chat_prompt("hi", template="{{ bos_token }}" + PLAIN) == model.chat_prompt("hi")


CALLS = {
    "hermes": 'I look. <tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>',
    "llama3": '<|python_tag|>{"name": "f", "parameters": {"x": 1}}',
    "mistral": '[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}}]',
}


@pytest.mark.parametrize("form", CALLS)
def test_calls_of_tools_are_objects(tmp_path: Path, form: str) -> None:
    mark = {"hermes": "<tool_call>", "llama3": "<|python_tag|>", "mistral": "[TOOL_CALLS]"}[form]
    made = tiny_model(n_ctx=512, seed=3)
    made.metadata["tokenizer.chat_template"] = f"{{# {mark} #}}{TOOLS}{PLAIN}"
    model = ll.load(made.write(tmp_path / "tiny.gguf"), executor="planned")
    grammar = "root ::= " + json.dumps(CALLS[form])
    tools = [{"type": "function", "function": {"name": "f"}}]
    answer = model.chat("hi", tools=tools, grammar=grammar, max_tokens=200)
    [call] = answer.tool_calls
    assert (call.name, call.arguments, answer.broken) == ("f", {"x": 1}, "")
    assert answer == ("I look. " if form == "hermes" else "")
    assert type(model.chat("hi", grammar=grammar, max_tokens=200)) is str
    half = model.chat("hi", tools=tools, grammar='root ::= "' + mark + ' no"', max_tokens=200)
    assert not half.tool_calls and half == half.broken == f"{mark} no"


def test_a_template_whose_form_of_calls_is_not_known_is_refused(model: Model) -> None:
    with pytest.raises(ChatTemplateError, match=r"unknown form.*stream_chat"):
        model.chat("hi", tools=[{"type": "function", "function": {"name": "f"}}], max_tokens=1)


def test_marks_that_are_control_tokens_are_put_back_where_they_were() -> None:
    names = ["[TOOL_CALLS]", "f", "[ARGS]", '{"x": 1}', "</s>", "é"]

    class Decoder:
        def push(self, token: int) -> str:
            return "" if token in (0, 2, 4) else names[token]

    class Tokenizer:
        vocabulary = types.SimpleNamespace(is_hidden=lambda token: token in (0, 2, 4))

        def token(self, token: int) -> str:
            return names[token]

        def stream(self, *, skip_special: bool) -> Decoder:
            return Decoder()

    assert with_marks('éf{"x": 1}', [5, 0, 1, 2, 3, 4], Tokenizer()) == 'é[TOOL_CALLS]f[ARGS]{"x": 1}'
    assert with_marks("é", [5, 5, 0, 1], Tokenizer()) == "é", "a stop string came before the call"


def test_old_spellings_warn_and_work(model: Model) -> None:
    with pytest.warns(DeprecationWarning, match="use stream"):
        old = model.generate("the", max_tokens=5, temperature=0, stream=True)
    assert isinstance(old, ll.Generation)
    assert "".join(old) == model.generate("the", max_tokens=5, temperature=0)
    with pytest.warns(DeprecationWarning, match="use stream_chat"):
        assert isinstance(model.chat("the", max_tokens=1, stream=True), ll.Generation)


def test_astream_gives_the_same_text_and_leaves_the_loop_free(model: Model) -> None:
    async def main() -> tuple[str, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticker = asyncio.create_task(tick())
        pieces = [piece async for piece in model.astream("the sea", max_tokens=30, temperature=0)]
        ticker.cancel()
        return "".join(pieces), ticks

    text, ticks = asyncio.run(main())
    assert text == model.generate("the sea", max_tokens=30, temperature=0)
    assert ticks > 30


def test_cancelling_a_task_stops_a_long_prompt(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    original = model.executor.__class__.__call__

    async def main() -> None:
        stream = model.astream([5] * 512, max_tokens=5)
        task = asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]
        while not steps:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()

    import threading

    release = threading.Event()

    def step(self: Any, ids: list[int], cache: Any, **options: Any) -> Any:
        steps.append(len(ids))
        release.wait(5)
        return original(self, ids, cache, **options)

    model.cache.truncate(0)
    monkeypatch.setattr(model.executor.__class__, "__call__", step)
    asyncio.run(main())
    assert steps == [256], "the second half of the prompt must not be read"


def test_tokenize_and_detokenize_are_inverse(model: Model, tmp_path: Path) -> None:
    ids = model.tokenize("the inner sea<|im_end|>")
    assert model.detokenize(ids) == "the inner sea<|im_end|>"
    assert model.detokenize(ids, skip_special=True) == "the inner sea"
    assert model.tokenizer.token_id("<|im_end|>") not in model.tokenize("<|im_end|>", parse_special=False)


@pytest.mark.parametrize("chosen", ["7", 7.0, None, True + 0.5, np.array([7, 8])])
def test_a_sampler_that_gives_no_whole_number_is_refused(model: Model, chosen: Any) -> None:
    with pytest.raises(TypeError, match="sampler: expected a token id, a whole number, got"):
        model.generate("The fox", sampler=lambda logits: chosen)


@pytest.mark.parametrize("texts", ["abc", b"abc", {"abc": 1}, None, 5])
def test_one_text_is_not_taken_for_many_of_one_character(model: Model, texts: Any) -> None:
    with pytest.raises(TypeError, match="prompts: expected several texts, a list of them, got"):
        model.generate_batch(texts)
    if not isinstance(texts, str):  # for which one text is a text
        for call in (model.perplexity, lambda texts: model.embed(texts, pooling="mean")):
            with pytest.raises(TypeError, match="texts: expected several texts"):
                call(texts)


@pytest.mark.parametrize("ids", [b"abc", [1.5, 2.5], ["1", "2"], 5, {1: 2}])
def test_what_is_not_token_ids_is_not_embedded_or_scored(model: Model, ids: Any) -> None:
    with pytest.raises(TypeError, match="expected a? ?token id"):
        model.embed([ids], pooling="mean")
    with pytest.raises(TypeError, match="expected a? ?token id"):
        model.perplexity([ids])


@pytest.mark.parametrize("name", ["n_ctx", "n_threads", "n_snapshots", "snapshot_every"])
@pytest.mark.parametrize("value", [1.5, "5", True])
def test_a_size_that_is_not_a_whole_number_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name}: expected a whole number, got"):
        ll.load("tales", **{name: value})
