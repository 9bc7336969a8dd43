"""Continue a text with a model, or chat. The text goes to standard output, the figures to standard error."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmlite.cli.texts import add_executor, standard_input
from llmlite.errors import LlmliteError
from llmlite.system.limits import MAX_THREADS
from llmlite.terminal import complain, say, say_text

if TYPE_CHECKING:
    from llmlite.generate import Generation
    from llmlite.model import Model

HELP = "continue a text, or chat"
EXAMPLES = """\
examples:
  llmlite run                                       a tale by the bundled model
  llmlite run -p "The fox" -n 50 --temperature 0    the likeliest continuation, the same every time
  llmlite run tales:Q4_0 --seed 7                   the bundled model in 4 bits
  llmlite run smollm2 --chat                        a conversation, like `llmlite chat --plain`
  llmlite run model.gguf --chat -p "Who are you?"   one question
  cat story.txt | llmlite run -p -                  the prompt from standard input

On a terminal, control characters in the text are shown as escapes (\\x1b); a pipe gets them unchanged.
The figures give two speeds. Prefill reads the prompt many tokens at a time, so it is faster per token than
decode, which writes one token at a time.
"""
INFINITE = float("inf")
PROMPT = "Once upon a time"
CHOICES = (  # further options for choosing a token: name, kind of number, lowest and highest value, help
    ("min-p", float, 0, 1, "choose among tokens at least N times as likely as the likeliest"),
    ("typical-p", float, 0, 1, "choose among the most typical tokens that together have probability N"),
    ("top-n-sigma", float, 0, INFINITE, "choose among logits within N standard deviations of the highest"),
    ("repeat-penalty", float, 0, INFINITE, "make recent tokens less likely; 1 is off"),
    ("frequency-penalty", float, -INFINITE, INFINITE, "subtract N from a logit for each earlier use"),
    ("presence-penalty", float, -INFINITE, INFINITE, "subtract N from the logits of tokens used before"),
    ("repeat-last-n", int, -1, INFINITE, "apply penalties to the last N tokens; -1 means all"),
    ("dry-multiplier", float, 0, INFINITE, "penalty for repeating longer passages (DRY); 0 is off"),
    ("xtc-probability", float, 0, 1, "chance of leaving out the likeliest tokens (XTC); 0 is off"),
    ("xtc-threshold", float, 0, 1, "probability from which XTC counts a token among the likeliest"),
    ("mirostat", int, 0, 2, "keep the text's surprise constant, by version 1 or 2; 0 is off"),
)


def number(kind: type, low: float, high: float = float("inf")) -> Callable[[str], Any]:
    """Return an argparse type that reads a number of this kind from low to high."""
    expected = "a whole number" if kind is int else "a number"
    expected += f" of at least {low:g}" + ("" if high == float("inf") else f" and at most {high:g}")

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high or value == float("inf"):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return convert


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "-p", "--prompt", help=f'the text to continue (default: "{PROMPT}"); "-" reads standard input'
    )
    parser.add_argument("--no-echo", action="store_true", help="print only what the model adds")
    parser.add_argument(
        "--chat", action="store_true", help="hold a conversation in the form the model was trained on"
    )
    parser.add_argument(
        "--system", metavar="TEXT", help="with --chat: the system message, given to the model first"
    )
    add_length(parser)
    add_choice(parser)
    add_engine(parser)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a model."""
    parser.add_argument(
        "model",
        nargs="?",
        default="tales",
        help='a GGUF file or a name: "tales" (default), "tales:Q4_0", "smollm2", or any in `llmlite models`',
    )


def add_length(parser: argparse.ArgumentParser) -> None:
    """Add -n."""
    parser.add_argument(
        "-n",
        "--max-tokens",
        type=number(int, 0),
        default=256,
        metavar="N",
        help="write at most this many tokens (default: %(default)s)",
    )


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the options for choosing tokens and for the form of the text."""
    choice = parser.add_argument_group("choosing the next token")
    choice.add_argument(
        "--temperature",
        type=number(float, 0),
        default=0.8,
        metavar="T",
        help="0 chooses the likeliest token; higher is more varied (default: %(default)s)",
    )
    choice.add_argument(
        "--top-k",
        type=number(int, 0),
        default=40,
        metavar="K",
        help="choose among the K likeliest tokens; 0 means all (default: %(default)s)",
    )
    choice.add_argument(
        "--top-p",
        type=number(float, 0, 1),
        default=0.95,
        metavar="P",
        help="choose among the likeliest tokens that together have probability P (default: %(default)s)",
    )
    for name, kind, low, high, text in CHOICES:
        choice.add_argument(f"--{name}", type=number(kind, low, high), metavar="N", help=text)
    choice.add_argument("--seed", type=number(int, 0), help="random seed; the same seed gives the same text")
    choice.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end the text before this string (repeatable)",
    )
    _add_form(choice)


def _add_form(group: argparse._ArgumentGroup) -> None:
    """Add the options for the form of the text; at most one may be given."""
    form = group.add_mutually_exclusive_group()
    form.add_argument("--json-schema", metavar="FILE", help="write JSON that this schema allows")
    form.add_argument("--grammar", metavar="FILE", help="write text that this GBNF grammar allows")
    form.add_argument("--regex", metavar="PATTERN", help="write text that this pattern matches as a whole")


def add_runtime(group: argparse._ArgumentGroup) -> None:
    """Add --kv, --executor and --threads."""
    group.add_argument(
        "--kv",
        choices=("f16", "f32", "q8_0"),
        default="f16",
        help="type of the KV cache (default: %(default)s)",
    )
    add_executor(group)
    group.add_argument(
        "--threads", type=number(int, 1, MAX_THREADS), metavar="N", help="threads of the planned executor"
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the options for loading and running a model."""
    engine = parser.add_argument_group("how it runs")
    engine.add_argument(
        "--ctx", type=number(int, 1), metavar="N", help="tokens of context (default: the model's, up to 4096)"
    )
    add_runtime(engine)
    engine.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[=SCALE]",
        help="apply a LoRA adapter (GGUF), times SCALE (repeatable)",
    )
    engine.add_argument(
        "--draft",
        metavar="MODEL",
        help='"prompt-lookup", or a smaller model with the same vocabulary: faster if it guesses well; '
        "the text stays the same",
    )
    engine.add_argument("--quiet", action="store_true", help="print no figures on standard error")


def load_model(options: argparse.Namespace) -> Model:
    """Load the model that `add_model` and `add_engine` ask for."""
    from llmlite.model import load

    with refusing():
        model = load(
            options.model,
            n_ctx=options.ctx,
            kv_dtype=options.kv,
            executor=options.executor,
            n_threads=options.threads,
            lora=[adapter(text) for text in options.lora] or None,
        )
    warn_of_long_context(model)
    return model


def warn_of_long_context(model: Model) -> None:
    """Say that --ctx is longer than the context that the model was trained for."""
    if model.n_ctx > model.config.n_ctx:
        complain(
            f"warning: --ctx {model.n_ctx}: this model was trained for {model.config.n_ctx} tokens; what it "
            "writes after them is worse"
        )


@contextmanager
def refusing() -> Iterator[None]:
    """Turn the ValueError of an option that the library refuses into an error of one sentence."""
    try:
        yield
    except LlmliteError:
        raise
    except ValueError as error:
        raise LlmliteError(str(error)) from None


def answer_options(options: argparse.Namespace, model: Model) -> dict[str, Any]:
    """Return the given options of `Model.stream`. A draft model is loaded."""
    from llmlite.generate.options import SAMPLER_OPTIONS
    from llmlite.model import load

    if "" in options.stop:
        raise LlmliteError("--stop: the text must not be empty")
    choices = {
        name: getattr(options, name)
        for name in ("max_tokens", "stop", *sorted(SAMPLER_OPTIONS & set(vars(options))))
    }
    choices |= forms(options)
    if options.draft:
        lookup = options.draft == "prompt-lookup"
        with refusing():
            choices["draft"] = options.draft if lookup else load(options.draft, n_ctx=model.n_ctx)
    return choices


def check_options(options: argparse.Namespace) -> None:
    """Refuse options that make no sense, before a model is loaded.

    Raises:
        LlmliteError: one is empty, or would have no effect.
    """
    if "" in options.stop:
        raise LlmliteError("--stop: the text must not be empty")
    if options.system and not options.chat:
        raise LlmliteError("--system: needs --chat; a text that is continued has no messages")


def run(options: argparse.Namespace) -> int:
    check_options(options)
    prompt = standard_input() if options.prompt == "-" else options.prompt
    from llmlite.repl import Conversation, converse, figures

    begin = time.perf_counter()
    model = load_model(options)
    load_seconds = time.perf_counter() - begin
    choices = answer_options(options, model)
    conversation = Conversation(model, choices, system=options.system or "")
    if options.chat and prompt is None:
        converse(conversation, plain=True, quiet=options.quiet)
        return 0
    if options.chat:
        conversation.ask(prompt)
        with refusing():
            generation = conversation.answer()
    else:
        prompt = PROMPT if prompt is None else prompt
        generation = continuation(model, prompt, choices)
        if not options.no_echo:
            say_text(prompt)
    stream(generation)
    if not options.quiet:
        say(f"[{model.gguf.path}: loaded in {load_seconds:.2f} s; {figures(generation)}]", file=sys.stderr)
    return 0


def adapter(text: str) -> tuple[str, float]:
    """Read "FILE" or "FILE=SCALE"."""
    path, equals, scale = text.rpartition("=")
    try:
        return (path, float(scale)) if equals else (text, 1.0)
    except ValueError:
        return text, 1.0  # a file with "=" in its name


def forms(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options for the text's form, with their files read."""
    found = {"regex": options.regex} if options.regex is not None else {}
    for name in ("json_schema", "grammar"):
        path = getattr(options, name)
        if path is not None:
            try:
                text = Path(path).read_text(encoding="utf-8")
                found[name] = json.loads(text) if name == "json_schema" else text
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise LlmliteError(f"--{name.replace('_', '-')}: {path}: {reason}") from None
    return found


def continuation(model: Model, prompt: str, choices: dict[str, Any]) -> Generation:
    """Return the model's continuation of a text, to be streamed."""
    if not model.tokenizer.encode(prompt, add_eos=False):
        raise LlmliteError("--prompt: is empty, and this model adds no token at the beginning")
    with refusing():
        return model.stream(prompt, **choices)


def stream(generation: Generation) -> str:
    """Print the pieces as they come, then a line end; return the text."""
    for piece in generation:
        say_text(piece)
    say(flush=True)
    return generation.text
