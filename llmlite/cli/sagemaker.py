"""The program of a SageMaker container: `python -m llmlite.cli.sagemaker serve`.

SageMaker starts a container with the word `serve`. Settings come from environment variables:
SM_MODEL_DIR (default /opt/ml/model) is the folder of the GGUF file. If it has several, LLMLITE_MODEL names
one. SAGEMAKER_BIND_TO_PORT (8080) and LLMLITE_HOST (0.0.0.0) say where to listen. LLMLITE_SERVE_ARGS
has further options of `llmlite serve`. LLMLITE_API_KEY is its key.
Source: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmlite import cli
from llmlite.errors import LlmliteError
from llmlite.terminal import complain

MODEL_DIR = "/opt/ml/model"
GRACE = 25  # seconds; SageMaker kills the container 30 s after SIGTERM


def arguments(environment: Mapping[str, str]) -> list[str]:
    """Return the command line of `llmlite` that these settings ask for.

    Raises:
        LlmliteError: If there is no model, if there are several without LLMLITE_MODEL, or if
            LLMLITE_SERVE_ARGS can't be parsed.
    """
    model = find_model(Path(environment.get("SM_MODEL_DIR") or MODEL_DIR), environment.get("LLMLITE_MODEL"))
    try:
        more = shlex.split(environment.get("LLMLITE_SERVE_ARGS", ""))
    except ValueError as error:
        raise LlmliteError(f"LLMLITE_SERVE_ARGS: {error}") from None
    port = environment.get("SAGEMAKER_BIND_TO_PORT") or "8080"
    host = environment.get("LLMLITE_HOST") or "0.0.0.0"
    command = ["serve", str(model), "--sagemaker", "--host", host, "--port", port, "--grace", str(GRACE)]
    return [*command, *more]


def find_model(folder: Path, name: str | None) -> Path:
    """Return the GGUF file in a folder or below it. If the model is split, return its first part.

    Raises:
        LlmliteError: If there isn't exactly one such file.
    """
    found = sorted(path for path in folder.rglob("*.gguf") if path.is_file())
    parts = re.compile(r"-(\d{5})-of-\d{5}\.gguf$")
    found = [p for p in found if not (m := parts.search(p.name)) or m[1] == "00001"]
    if name:
        found = [path for path in found if name in (path.name, path.stem)]
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5])
        wanted = f"one file {name}" if name else "one GGUF file (LLMLITE_MODEL names one of several)"
        raise LlmliteError(f"{folder}: expected {wanted}, found {names or 'none'}")
    return found[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the container's command and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if list(argv) != ["serve"]:
        complain(f"expected the word serve, got {' '.join(argv) or 'nothing'}; this container only serves")
        return 2
    try:
        command = arguments(os.environ)
    except LlmliteError as error:
        complain(str(error))
        return 2
    return cli.main(command)


if __name__ == "__main__":
    sys.exit(main())
