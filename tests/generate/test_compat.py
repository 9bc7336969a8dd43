"""One program under llama-cpp-python and under llmlite.compat: the same tokens, keys and types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite import gguf
from llmlite.compat import Llama
from llmlite.errors import UnsupportedError
from llmlite.quants.tensor import QuantTensor

PROMPT = "Once upon a time"
MESSAGES = [{"role": "user", "content": "Tell me a tale."}]
SCHEMA = {
    "type": "json_object",
    "schema": {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model in F32: rounding of weights and activations differs least there."""
    file = gguf.read(ll.model_path("tales"))
    tensors = {
        name: QuantTensor.quantize(tensor.dequantize(), "F32", name) for name, tensor in file.tensors.items()
    }
    path = tmp_path_factory.mktemp("models") / "tales-F32.gguf"
    gguf.write(path, dict(file.metadata), tensors)
    return path


def program(kind: Any, path: Path) -> dict[str, Any]:
    """What a user's notebook does, with either class."""
    llama = kind(
        str(path), n_ctx=256, seed=1, n_threads=2, verbose=False, logits_all=True, type_k=0, type_v=0
    )
    ids = llama.tokenize(PROMPT.encode())
    llama.reset()
    llama.eval(ids)
    greedy = []
    for _ in range(12):
        greedy.append(llama.sample(temp=0.0))
        llama.eval(greedy[-1:])
    options: dict[str, Any] = {"max_tokens": 24, "temperature": 0.0}
    return {
        "ids": ids,
        "text": llama.detokenize(ids),
        "steps": greedy,
        "n": (llama.n_ctx(), llama.n_vocab(), llama.n_embd(), llama.n_tokens, llama.token_eos()),
        "completion": llama.create_completion(PROMPT, **options),
        "call": llama(PROMPT, echo=True, stop=["."], **options),
        "logprobs": llama.create_completion(PROMPT, logprobs=2, **options),
        "stream": list(llama.create_completion(PROMPT, stream=True, **options)),
        "chat": llama.create_chat_completion(MESSAGES, **options),
        "chat_stream": list(llama.create_chat_completion(MESSAGES, stream=True, **options)),
    }


def shape(value: Any) -> Any:
    """Keys and types, without the values; of a list its first element's."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [shape(value[0])] if value else []
    return type(value).__name__


@pytest.mark.conformance
def test_one_program_gives_the_same_under_both(f32: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the oracle here")
    theirs, ours = program(llama_cpp.Llama, f32), program(Llama, f32)
    for name in ("ids", "text", "steps", "n"):
        assert ours[name] == theirs[name], name
    for name in ("completion", "call", "logprobs"):
        got, want = ours[name]["choices"][0], theirs[name]["choices"][0]
        assert (got["text"], got["finish_reason"]) == (want["text"], want["finish_reason"]), name
        assert ours[name]["usage"] == theirs[name]["usage"], name
    assert ours["chat"]["choices"][0]["message"] == theirs["chat"]["choices"][0]["message"]
    for name in ("completion", "call", "chat"):
        assert shape(ours[name]) == shape(theirs[name]), name
    got, want = (each["logprobs"]["choices"][0]["logprobs"] for each in (ours, theirs))
    assert list(got) == list(want)
    assert got["tokens"] == want["tokens"]
    assert got["token_logprobs"] == pytest.approx(want["token_logprobs"], abs=2e-3)
    for name, part in (("stream", "text"), ("chat_stream", "delta")):
        assert shape(ours[name][0]) == shape(theirs[name][0]), name
        assert shape(ours[name][-1]) == shape(theirs[name][-1]), name
        texts = [
            "".join(
                c["choices"][0][part] if part == "text" else c["choices"][0][part].get("content", "")
                for c in chunks
            )
            for chunks in (ours[name], theirs[name])
        ]
        assert texts[0] == texts[1], name


def chatted(kind: Any, path: Path, form: Any) -> tuple[str, str]:
    """An answer held to a form, and why it ended."""
    llama = kind(str(path), n_ctx=256, n_threads=2, verbose=False, type_k=0, type_v=0)
    choice = llama.create_chat_completion(MESSAGES, response_format=form, max_tokens=40, temperature=0.0)[
        "choices"
    ][0]
    return choice["message"]["content"], choice["finish_reason"]


@pytest.mark.conformance
@pytest.mark.parametrize("form", [{"type": "text"}, {"type": "json_object"}, SCHEMA])
def test_an_answer_held_to_a_form_is_the_same_under_both(f32: Path, form: Any) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the oracle here")
    theirs, ours = chatted(llama_cpp.Llama, f32, form), chatted(Llama, f32, form)
    if form is not SCHEMA:
        assert ours == theirs
        return
    for text, reason in (theirs, ours):  # which white space their grammars allow differs
        assert reason == "stop" and json.loads(text)["a"] in ("x", "y")


@pytest.mark.conformance
@pytest.mark.parametrize("pooling", [None, 1, 3])
def test_embeddings_are_the_same_under_both(f32: Path, tmp_path: Path, pooling: int | None) -> None:
    """A vector for each token if the file says no pooling, else one for each text."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the oracle here")
    path = f32
    if pooling is not None:
        file = gguf.read(f32)
        path = tmp_path / "pooled.gguf"
        gguf.write(path, {**file.metadata, "llama.pooling_type": pooling}, file.tensors)
    options: dict[str, Any] = {"n_ctx": 256, "embedding": True, "type_k": 0, "type_v": 0, "verbose": False}
    theirs, ours = llama_cpp.Llama(str(path), n_threads=2, **options), Llama(str(path), **options)
    for given in (PROMPT, [PROMPT, "The fox"]):
        for normalize in (False, True):
            want, got = (each.embed(given, normalize=normalize) for each in (theirs, ours))
            assert shape(got) == shape(want)
            pairs = [(got, want)] if isinstance(given, str) else list(zip(got, want, strict=True))
            # without pooling, llama-cpp-python 0.3.36 reads the second text's vectors from the wrong place
            for a, b in pairs[:1] if pooling is None else pairs:
                assert np.shape(a) == np.shape(b)
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-3 * np.abs(b).max())


def resumed(kind: Any, path: Path) -> tuple[list[int], list[int], int]:
    """Tokens after a state and one token more, twice; and how many tokens the state has.

    llama-cpp-python samples from the logits of what ran last; its states don't hold those, hence one more.
    """
    llama = kind(str(path), n_ctx=256, n_threads=2, verbose=False, logits_all=True, type_k=0, type_v=0)
    llama.reset()
    llama.eval(llama.tokenize(PROMPT.encode()))
    first = llama.sample(temp=0.0)
    state = llama.save_state()
    found: list[list[int]] = []
    for _ in range(2):
        found.append([first])
        for _ in range(6):
            llama.eval(found[-1][-1:])
            found[-1].append(llama.sample(temp=0.0))
        llama.load_state(state)
    return found[0], found[1], llama.n_tokens


@pytest.mark.conformance
def test_a_state_goes_on_the_same_under_both(f32: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the oracle here")
    theirs, ours = resumed(llama_cpp.Llama, f32), resumed(Llama, f32)
    assert ours == theirs and ours[0] == ours[1]


@pytest.fixture(scope="module")
def llama() -> Llama:
    return Llama("tales", n_ctx=256, seed=3)


def test_a_state_is_saved_and_loaded(llama: Llama) -> None:
    llama.reset()
    llama.eval(llama.tokenize(PROMPT.encode()))
    state = llama.save_state()
    want = llama.sample(temp=0)
    llama.eval([want, 5, 6])
    llama.load_state(state)
    assert llama.sample(temp=0) == want
    assert llama.n_tokens == len(state["input_ids"])


def test_a_schema_holds_a_conversation_to_json(llama: Llama) -> None:
    got = llama.create_chat_completion(MESSAGES, response_format=SCHEMA, max_tokens=60)
    assert json.loads(got["choices"][0]["message"]["content"])["a"] in ("x", "y")


def test_what_is_not_there_is_refused_by_name(llama: Llama) -> None:
    with pytest.raises(UnsupportedError, match=r"Llama.set_cache"):
        llama.set_cache(None)
    with pytest.raises(UnsupportedError, match=r"create_completion\(suffix"):
        llama.create_completion(PROMPT, suffix="x")
    with pytest.raises(UnsupportedError, match=r"create_chat_completion\(logprobs"):
        llama.create_chat_completion(MESSAGES, logprobs=True)
    with pytest.raises(UnsupportedError, match=r"response_format=.*json_schema"):
        llama.create_chat_completion(MESSAGES, response_format={"type": "json_schema"})
    with pytest.raises(UnsupportedError, match=r"Llama\(rope_freq_base"):
        Llama("tales", rope_freq_base=1e4)


def test_a_closed_llama_has_no_model_and_closes_again() -> None:
    llama = Llama("tales", n_ctx=64)
    llama.close()
    llama.close()
    with pytest.raises(AttributeError, match="was closed"):
        llama(PROMPT, max_tokens=1)


@pytest.mark.parametrize("seed", [-1, 0xFFFFFFFF, None])
def test_a_seed_of_minus_one_is_a_new_one_each_time(seed: int | None) -> None:
    random = Llama("tales", n_ctx=64, seed=seed)
    texts = {random(PROMPT, max_tokens=20, temperature=2.0)["choices"][0]["text"] for _ in range(3)}
    assert len(texts) == 3


def test_a_call_without_a_seed_has_the_models(llama: Llama) -> None:
    def write(**options: Any) -> str:
        return llama(PROMPT, max_tokens=20, temperature=2.0, **options)["choices"][0]["text"]

    assert write(seed=None) == write() == write(seed=3) != write(seed=4)
    assert write(seed=-1) != write(seed=-1)
