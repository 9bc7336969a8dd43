"""One program under llama-cpp-python and under llmlite.compat: the same tokens, keys and types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import llmlite as ll
from llmlite import gguf
from llmlite.compat import Llama
from llmlite.errors import UnsupportedError
from llmlite.quants.tensor import QuantTensor

PROMPT = "Once upon a time"
MESSAGES = [{"role": "user", "content": "Tell me a tale."}]


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
    import json

    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    got = llama.create_chat_completion(
        MESSAGES, response_format={"type": "json_object", "schema": schema}, max_tokens=60
    )
    assert json.loads(got["choices"][0]["message"]["content"])["a"] in ("x", "y")


def test_what_is_not_there_is_refused_by_name(llama: Llama) -> None:
    with pytest.raises(UnsupportedError, match=r"Llama.set_cache"):
        llama.set_cache(None)
    with pytest.raises(UnsupportedError, match=r"create_completion\(suffix"):
        llama.create_completion(PROMPT, suffix="x")
    with pytest.raises(UnsupportedError, match=r"Llama\(rope_freq_base"):
        Llama("tales", rope_freq_base=1e4)
