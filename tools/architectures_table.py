"""Write docs/architectures.md: compare every architecture with transformers and llama.cpp.

    python tools/architectures_table.py            measure all (minutes; needs transformers and llama.cpp)
    python tools/architectures_table.py phi3 qwen  measure names with these prefixes; keep the other rows

Run it again after adding an architecture. The forms are in tests/conformance/architecture_models.py and
encoder_models.py.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the tiny models are the tests'

import llmlite as ll  # noqa: E402
from llmlite.description.architectures import ARCHITECTURES, Architecture  # noqa: E402
from llmlite.huggingface import convert_folder  # noqa: E402
from tests.conformance.architecture_models import MODELS  # noqa: E402
from tests.conformance.encoder_models import ENCODERS  # noqa: E402
from tests.support.llama_cpp import run_llama_cpp  # noqa: E402
from tests.support.transformers_models import (  # noqa: E402
    TinyModel,
    byte_level_tokenizer,
    logits_of,
    prompt,
    save,
    states_of,
)

TARGET = ROOT / "docs" / "architectures.md"
HEAD = """\
# Architectures, and how they are verified

Made by `python tools/architectures_table.py`; do not edit.

Each row is a tiny model with random weights, made by transformers' own class, saved as a folder, and
converted by llmlite to an F32 file. Every program reads the same {n_ids} tokens. A number is the largest
difference of any logit, or of an encoder's last states, as a share of the largest; keys and values are kept in
F32. The bound is 1e-4 against transformers and 1e-3 against llama.cpp. If llama.cpp differs by more, the last column says why: the
model's own definition, which is transformers', wins.

| form | class | eager, transformers | planned, transformers | eager, llama.cpp | planned, llama.cpp | llama.cpp, transformers | why llama.cpp differs |
|---|---|---|---|---|---|---|---|
"""  # noqa: E501  (a table's row)
ENTRIES = """
## Entries

The values of `general.architecture` that llmlite reads, and the classes of transformers that convert to each.
Any other value is refused, with this list. For an entry without a class, llmlite reads files but converts no
folder.

| architecture | classes |
|---|---|
"""


class Row(NamedTuple):
    """Hold the results of one tiny model."""

    tiny: TinyModel
    differences: Mapping[tuple[str, str], float]  # (program, reference) -> share of the largest logit


COLUMNS = (
    ("eager", "transformers"), ("planned", "transformers"), ("eager", "llama.cpp"), ("planned", "llama.cpp"),
    ("llama.cpp", "transformers"),
)  # fmt: skip


def measure(tiny: TinyModel, folder: Path) -> Row:
    """Make the model, convert it, and run it in all programs."""
    reference = save(tiny, folder / "model", byte_level_tokenizer("qwen2"))
    path, ids = folder / "model.gguf", prompt(tiny)
    convert_folder(folder / "model", path, file_type="F32")
    models = {name: ll.load(path, kv_dtype="f32", executor=name) for name in ("eager", "planned")}
    if tiny in ENCODERS:
        found = {
            name: model.embed([ids], pooling="none", normalize=False)[0] for name, model in models.items()
        }
        found["transformers"] = states_of(reference, ids)
        found["llama.cpp"] = run_llama_cpp(path, ids, folder, "states")["states"]
    else:
        found = {name: model.logits(ids) for name, model in models.items()}
        found["transformers"] = logits_of(reference, ids)
        found["llama.cpp"] = run_llama_cpp(path, ids, folder)["logits"]
    largest = np.abs(found["transformers"]).max()
    return Row(tiny, {(a, b): float(np.abs(found[a] - found[b]).max() / largest) for a, b in COLUMNS})


def line(row: Row) -> str:
    """Return one row of the table."""
    numbers = [f"{row.differences[column]:.0e}" for column in COLUMNS]
    cells = [row.tiny.name, row.tiny.model_class, *numbers, row.tiny.llama_cpp or ""]
    return f"| {' | '.join(cells)} |"


def entries(architectures: Iterable[Architecture]) -> str:
    """Return the list of all entries."""
    return "".join(f"| {entry.name} | {', '.join(entry.classes)} |\n" for entry in architectures)


def kept() -> dict[str, str]:
    """Return the page's present rows of forms, by name."""
    if not TARGET.exists():
        return {}
    rows = [row for row in TARGET.read_text(encoding="utf-8").splitlines() if row.count("|") == 9]
    return {row.split("|")[1].strip(): row for row in rows}


def main(prefixes: list[str]) -> int:
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.filterwarnings("ignore")
    names = [tiny.name for tiny in (*MODELS, *ENCODERS)]
    if unknown := [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in names)]:
        print(f"no name begins with {unknown[0]!r}; there are: {', '.join(names)}", file=sys.stderr)
        return 2
    rows = kept() if prefixes else {}
    for tiny in (*MODELS, *ENCODERS):
        if prefixes and not tiny.name.startswith(tuple(prefixes)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows[tiny.name] = line(measure(tiny, Path(folder)))
        print(rows[tiny.name], flush=True)
    lines = [rows[tiny.name] for tiny in (*MODELS, *ENCODERS) if tiny.name in rows]
    text = HEAD.format(n_ids=MODELS[0].n_ids) + "\n".join(lines) + "\n" + ENTRIES
    TARGET.write_text(text + entries(ARCHITECTURES.values()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
