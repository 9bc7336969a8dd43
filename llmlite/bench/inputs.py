"""The input of a comparison: the files of the model, and the token ids that every backend reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmlite import catalog, gguf, resources, tokenizers
from llmlite.description.config import ModelConfig
from llmlite.errors import LlmliteError
from llmlite.quants import by_name

# The types that are compared by default. SmolLM2's own file is Q4_1. But Q8_0 and Q4_0 come first, because
# llama.cpp repacks these two for its fast kernels but doesn't repack Q4_1.
TYPES = {"tales": ("F16", "Q8_0", "Q4_0"), "smollm2": ("Q8_0", "Q4_0", "Q4_1")}
# Read if the bundled evaluation text is missing or belongs to another vocabulary.
TEXT = (
    "A measurement is a promise that another can check. Write down what was measured, where, how often, "
    "and how far apart the answers lay. Then do it again tomorrow and see what is left of it. "
)


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One GGUF file of a comparison.

    Attributes:
        path: path of the file.
        model_type: quantization that most of its weights have, such as "Q4_0".
        n_ctx: context length in tokens.
        n_params: number of weights.
        n_bytes: size of the file.
        note: a remark for the reader; "" for none.
    """

    path: Path
    model_type: str
    n_ctx: int
    n_params: int
    n_bytes: int
    note: str = ""

    def as_record(self) -> dict[str, Any]:
        """Return llama-bench's fields. The file's folder is left out, so that results can be shared."""
        return {
            "model_filename": self.path.name,
            "model_type": self.model_type,
            "model_size": self.n_bytes,
            "model_n_params": self.n_params,
            "n_ctx": self.n_ctx,
        }


def open_models(model: str, types: tuple[str, ...] | None) -> list[ModelFile]:
    """Return the files to compare, one for each type, the best type first.

    Args:
        model: "tales", "smollm2", or the path of a GGUF file.
        types: quantizations. None chooses those in TYPES, or only the file itself if the model isn't in
            TYPES. () chooses only the file itself. A type other than the file's own is quantized anew from
            its weights, and cached.

    Raises:
        LlmliteError: a file is missing or can't be read as a model.
    """
    if types is None:
        types = TYPES.get(model, ())
    source = _open(resources.model_path(model))
    files = [_sibling(model, source, name) for name in types] or [source]
    return [_with_reason(file) if len(files) > 1 else file for file in files]


def _with_reason(file: ModelFile) -> ModelFile:
    """Add a note to a Q4_1 file, with the reason why llama.cpp is slower on it than on other types."""
    if file.model_type != "Q4_1":
        return file
    reason = "llama.cpp doesn't repack Q4_1 for its fast kernels; Q8_0 and Q4_0 make a fairer comparison"
    return replace(file, note="; ".join(filter(None, (file.note, reason))))


def _sibling(model: str, source: ModelFile, type_name: str) -> ModelFile:
    """Return the same model in another type; the file is made on first use and cached."""
    from llmlite.bench.backends.weights import cached
    from llmlite.quantize import quantize_file

    if type_name.upper() == source.model_type:
        return source

    def make(folder: str) -> None:
        Path(folder).mkdir()
        target = Path(folder) / f"{source.path.stem}-{type_name}.gguf"
        quantize_file(source.path, target, type_name, requantize=True)

    if model in (*resources.BUNDLED_MODELS, *catalog.PACKAGED):
        path = resources.model_path(f"{model}:{type_name}")
    else:
        [path] = Path(cached(str(source.path), type_name, make)[0]).glob("*.gguf")
    made = _open(path)
    if by_name(source.model_type).block_size == 1:
        return made
    note = f"{type_name} was requantized from the {source.model_type} file: its quality can't be better"
    return replace(made, note=note)


def _open(path: Path) -> ModelFile:
    with gguf.read(path) as file:
        config = ModelConfig.from_metadata(file.metadata, file.tensors)
        by_type: Counter[str] = Counter()
        for tensor in file.tensors.values():
            by_type[tensor.type.name] += tensor.n_elements
    return ModelFile(
        path=path,
        model_type=by_type.most_common(1)[0][0],
        n_ctx=config.n_ctx,
        n_params=by_type.total(),
        n_bytes=path.stat().st_size,
    )


def agreement_ids(file: ModelFile, n_tokens: int) -> list[int]:
    """Return the token ids of an English text in the model's own vocabulary.

    They begin with BOS if the model wants one. A short text is repeated.

    Args:
        file: the model.
        n_tokens: number of token ids.

    Raises:
        LlmliteError: the tokenizer makes no tokens from the text.
    """
    with gguf.read(file.path) as opened:
        tokenizer = tokenizers.from_metadata(opened.metadata)
        ids = list(tokenizer.encode(_text(), add_special=False))
        if tokenizer.add_bos and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
            ids.insert(0, tokenizer.bos_id)
    if not ids:
        raise LlmliteError(f"{file.path}: its tokenizer made no tokens from an English text")
    while len(ids) < n_tokens:
        ids += ids
    return [int(token) for token in ids[:n_tokens]]


def _text() -> str:
    try:
        return resources.data_path("tales-eval.txt").read_text(encoding="utf-8")[:20_000]
    except (LlmliteError, OSError):
        return TEXT * 40
