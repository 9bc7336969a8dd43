"""A model repository for Triton Inference Server. Its models forward requests to a running `llmlite serve`.

There are two models, because Triton allows one way of answering for each: NAME gives whole answers,
NAME_stream gives them piece by piece.
Source: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from llmlite.errors import LlmliteError
from llmlite.system import files

MODEL = Path(__file__).with_name("triton_model.py")
DEFAULT_URL = "http://127.0.0.1:8080"
INPUTS = (
    ("text_input", "TYPE_STRING", 1),
    ("input_ids", "TYPE_INT32", -1),
    ("max_tokens", "TYPE_INT32", 1),
    ("temperature", "TYPE_FP64", 1),
    ("top_k", "TYPE_INT32", 1),
    ("top_p", "TYPE_FP64", 1),
    ("min_p", "TYPE_FP64", 1),
    ("seed", "TYPE_INT64", 1),
    ("stop", "TYPE_STRING", -1),
)
OUTPUTS = (("text_output", "TYPE_STRING", 1), ("output_ids", "TYPE_INT32", -1))
README = """\
# A model repository for Triton Inference Server

Triton doesn't compute here. Its Python model forwards every request to a running llmlite:

    llmlite serve MODEL --name {name} --port {port}
    tritonserver --model-repository .

The server is at {url}; to change that, edit llmlite_url in both config.pbtxt files.
If it asks for a key, start Triton with LLMLITE_API_KEY in its environment.

- `{name}` answers whole: text_output and output_ids. HTTP (`infer`, `generate`) and gRPC.
- `{name}_stream` answers piece by piece (decoupled): text_output. HTTP (`generate_stream`) and gRPC streams.

Inputs: text_input (one text); for `{name}`, input_ids instead if you like. Optional: max_tokens, temperature,
top_k, top_p, min_p, seed, stop. A request that is cancelled in Triton is cancelled in llmlite, too.

1/model.py needs only Triton's Python backend and its NumPy. It imports nothing of llmlite, so the
two may use different versions of Python and NumPy.
"""


def export(folder: str | os.PathLike[str], *, name: str, url: str = DEFAULT_URL) -> list[Path]:
    """Write the repository and return the paths of its files.

    Args:
        folder: the folder to make; if it exists, it must be empty.
        name: the model's name in llmlite and in Triton.
        url: the address of the running server.

    Raises:
        LlmliteError: If Triton can't use the name, the address isn't one of HTTP, or the folder isn't empty.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise LlmliteError(
            f"name: expected letters, digits, '.', '_' and '-', got {name!r:.120}; --name sets it"
        )
    port = _port(url)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LlmliteError(f"{target}: not an empty folder; name a new one")
    code = MODEL.read_text(encoding="utf-8")
    made = {Path("README.md"): README.format(name=name, url=url, port=port)}
    for each, is_streaming in ((name, False), (f"{name}_stream", True)):
        made[Path(each, "config.pbtxt")] = config(each, name, url, is_streaming=is_streaming)
        made[Path(each, "1", "model.py")] = code
    for path, text in made.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        files.write_text(target / path, text)
    return [target / path for path in made]


def _port(url: str) -> int:
    """Return the port of an address.

    Raises:
        LlmliteError: If it isn't an address of HTTP.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or not re.fullmatch(r"[!#-\[\]-~]+", url):
        raise LlmliteError(f"--url: expected an address such as {DEFAULT_URL}, got {url!r:.120}")
    return port or (443 if parts.scheme == "https" else 80)


def config(triton_name: str, name: str, url: str, *, is_streaming: bool) -> str:
    """Return a config.pbtxt. One instance is enough, because each request waits in its own thread."""

    def tensors(kind: str, found: tuple[tuple[str, str, int], ...], extra: str = "") -> str:
        rows = (f'  {{ name: "{n}" data_type: {t} dims: [ {d} ]{extra} }}' for n, t, d in found)
        return f"{kind} [\n" + ",\n".join(rows) + "\n]\n"

    return (
        f'name: "{triton_name}"\n'
        'backend: "python"\n'
        "max_batch_size: 0\n"
        + tensors("input", INPUTS, " optional: true")
        + tensors("output", OUTPUTS[:1] if is_streaming else OUTPUTS)
        + "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
        + (f"model_transaction_policy {{ decoupled: {str(is_streaming).lower()} }}\n")
        + f'parameters {{ key: "llmlite_url" value: {{ string_value: "{url}" }} }}\n'
        + f'parameters {{ key: "llmlite_model" value: {{ string_value: "{name}" }} }}\n'
    )
