"""Serve a model over HTTP to the clients of OpenAI, ollama and Triton, and to a browser.

This needs the extra `serve`. Only programs on this machine can reach the server, unless --host says
otherwise. If it does, set a key in LLMLITE_API_KEY, or in a file named by --api-key-file.
"""

from __future__ import annotations

import argparse
import os
import sys

from llmlite.cli.run import add_runtime, number, warn_of_long_context
from llmlite.errors import LlmliteError
from llmlite.terminal import say

HELP = "serve a model over HTTP (OpenAI, ollama, Triton)"
EXAMPLES = """\
examples:
  llmlite serve tales                        then open http://127.0.0.1:8080/
  llmlite serve smollm2 --port 9000 --parallel 16
  llmlite serve minilm                       embeddings
  LLMLITE_API_KEY=... llmlite serve tales --host 0.0.0.0
docs/serve.md lists the endpoints and the clients that are tested.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", default="tales", help="a GGUF file or a name")
    parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    parser.add_argument("--port", type=number(int, 0, 65535), default=8080, help="default: %(default)s")
    parser.add_argument("--name", help="the name that clients ask for (default: the model's)")
    parser.add_argument("--api-key-file", metavar="FILE", help="require the key in its first line")
    parser.add_argument("--sagemaker", action="store_true", help="also serve /ping and /invocations")
    parser.add_argument("--quiet", action="store_true", help="print no access log")
    _add_limits(parser)
    _add_engine(parser)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the limits on requests."""
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--parallel",
        type=number(int, 1, 64),
        default=8,
        metavar="N",
        help="texts written at the same time (default: 8)",
    )
    limits.add_argument(
        "--queue", type=number(int, 1), default=128, metavar="N", help="requests that may wait (default: 128)"
    )
    limits.add_argument(
        "--max-seconds",
        type=number(float, 0.001),
        default=600,
        metavar="S",
        help="longest time for a request, in seconds (default: 600)",
    )
    limits.add_argument(
        "--max-bytes",
        type=number(int, 1),
        default=8 << 20,
        metavar="N",
        help="largest request, in bytes (default: 8388608)",
    )
    limits.add_argument(
        "--grace",
        type=number(int, 0),
        default=25,
        metavar="S",
        help="seconds to finish answers after SIGTERM (default: 25)",
    )
    limits.add_argument(
        "--context-overflow",
        choices=("refuse", "drop-oldest"),
        default="refuse",
        help="what to do if a conversation is longer than the context (default: %(default)s)",
    )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the options for loading and running the model."""
    engine = parser.add_argument_group("how it runs")
    engine.add_argument("--ctx", type=number(int, 1), metavar="N", help="context of each text, in tokens")
    add_runtime(engine)
    engine.add_argument("--pooling", choices=("mean", "cls", "last"), help="pooling of embeddings")
    engine.add_argument("--ignore-memory", action="store_true", help="load the model even if memory is short")


def run(options: argparse.Namespace) -> int:
    try:
        from llmlite.serve.process import serve
    except ImportError as error:
        raise LlmliteError(f"serve needs {error.name}: pip install 'llmlite-kit[serve]'") from None
    from llmlite.serve.memory import check_memory
    from llmlite.serve.settings import Settings

    key = _key(options.api_key_file)
    local = options.host in ("127.0.0.1", "localhost", "::1")
    if not local and key is None:
        say(
            "llmlite: warning: no API key is set; anyone who can reach this port can use the model",
            file=sys.stderr,
        )
    settings = Settings(
        name=options.name or _name(options.model),
        max_sequences=options.parallel,
        max_queue=options.queue,
        max_body_bytes=options.max_bytes,
        max_seconds=options.max_seconds,
        context_overflow=options.context_overflow,
        pooling=options.pooling,
        api_key=key,
        is_local=local,
        sagemaker=options.sagemaker,
    )
    if not options.ignore_memory:
        check_memory(options.model, n_ctx=options.ctx, kv_dtype=options.kv, n_sequences=options.parallel)
    import llmlite as ll

    try:
        model = ll.load(
            options.model,
            n_ctx=options.ctx,
            kv_dtype=options.kv,
            executor=options.executor,
            n_threads=options.threads,
        )
    except ValueError as error:
        raise LlmliteError(str(error)) from None
    warn_of_long_context(model)
    return serve(model, settings, options.host, options.port, grace=options.grace, quiet=options.quiet)


def _key(path: str | None) -> str | None:
    """Return the key from a file or the environment. It isn't an option: others can read a command line."""
    if path is None:
        return os.environ.get("LLMLITE_API_KEY") or None
    with open(path, encoding="utf-8") as file:
        key = file.readline().strip()
    if not key:
        raise LlmliteError(f"{path}: expected a key in the first line, got an empty one")
    return key


def _name(model: str) -> str:
    """Return the model's name for clients: a name unchanged, a file's name without its folder and suffix."""
    name = os.path.basename(model)
    return name.removesuffix(".gguf") or model
