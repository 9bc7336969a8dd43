"""Write a folder from which another server serves a model.

triton: a model repository for Triton Inference Server. Its models forward
requests to a running `llmlite serve`.
tensorflow: a SavedModel of a Llama or Qwen 2, which TensorFlow Hub can load
(needs the extra tfhub). The folder's README.md says how to publish it.
"""

from __future__ import annotations

import argparse

from llmlite.terminal import say

HELP = "write a folder for another server (Triton, TensorFlow)"
EXAMPLES = """\
examples:
  llmlite export triton repository
  llmlite export triton repository --name smollm2 --url http://10.0.0.5:9000
then, as the folder's README.md says:
  llmlite serve tales
  tritonserver --model-repository repository
or:
  llmlite export tensorflow saved --name tales
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("form", choices=("triton", "tensorflow"), help="the server to write for")
    parser.add_argument("folder", metavar="FOLDER", help="a new folder")
    parser.add_argument(
        "--name", default="tales", help="the model's name (tales); for tensorflow, a file works too"
    )
    parser.add_argument(
        "--url", default="http://127.0.0.1:8080", help="address of llmlite serve (%(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    if options.form == "tensorflow":
        return _tensorflow(options)
    from llmlite.serve.triton import export

    for path in export(options.folder, name=options.name, url=options.url):
        say(path)
    return 0


def _tensorflow(options: argparse.Namespace) -> int:
    from pathlib import Path

    from llmlite import resources
    from llmlite.errors import LlmliteError

    folder = Path(options.folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LlmliteError(f"{folder}: not an empty folder; name a new one")
    path = str(resources.model_path(options.name))
    try:
        from llmlite.bench.backends.tensorflow_saved import save
    except ImportError as error:
        raise LlmliteError(f"export needs {error.name}: pip install 'llmlite-kit[tfhub]'") from None
    save(path, folder)
    say(folder)
    return 0
