"""Run models in the cells of a notebook, and in IPython.

    %load_ext llmlite
    %llm tales -p "The fox" -n 40

    %%llm smollm2 --chat --temperature 0
    Who are you?

The options are those of `llmlite run`. With `%%llm`, the cell is the prompt. IPython is imported on use.
"""

from __future__ import annotations

import argparse
import glob
import keyword
import os
import re
import shlex
from typing import Any, NoReturn

from llmlite import catalog
from llmlite.cli import Parser, sentence
from llmlite.cli.completion import FILE, Words, tree
from llmlite.cli.run import (
    PROMPT,
    add_choice,
    add_engine,
    add_length,
    add_model,
    answer_options,
    check_options,
    continuation,
    load_model,
)
from llmlite.errors import LlmliteError
from llmlite.generate import Generation
from llmlite.model import Model
from llmlite.repl import Conversation, figures, stopping
from llmlite.resources import cache_dir
from llmlite.terminal import printable, say

NAME = "llm"
MATCHER = "llmlite.llm"
ASKED_FOR = re.compile(rf"^%%?{NAME}\s(?P<rest>.*)$", re.DOTALL)
EXPECTED = (LlmliteError, OSError, MemoryError, ImportError, ValueError, TypeError)
EXAMPLES = """\
examples:
  %llm                                   a tale by the bundled model
  %llm tales:Q4_0 -p "The fox" -n 50     your own beginning
  %%llm smollm2 --chat                   the cell below is the question
  %%llm tales --out g                    g.text, g.ids, g.logprobs afterwards

Interrupt the kernel to stop an answer. The last model stays loaded.
"""


def load(shell: Any) -> None:
    """Add `%llm`, `%%llm` and their completion to an IPython shell."""
    from IPython.core.completer import context_matcher
    from IPython.core.magic import no_var_expand

    magic = Magic(shell)

    @no_var_expand  # "{3}" in a pattern is not a variable
    def llm(line: str, cell: str | None = None) -> None:
        """Continue a text, or answer a question, with a model: `%llm --help` lists the options."""
        magic.run(line, cell)

    shell.register_magic_function(llm, "line_cell", NAME)
    unload_completion(shell)

    @context_matcher(identifier=MATCHER)
    def complete(context: Any) -> Any:
        return magic.complete(context)

    shell.Completer.custom_matchers.append(complete)


def unload(shell: Any) -> None:
    """Remove `%llm`, `%%llm` and their completion, and free the loaded model."""
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop(NAME, None)
    unload_completion(shell)


def unload_completion(shell: Any) -> None:
    """Remove the completion, if there is one."""
    matchers = shell.Completer.custom_matchers
    matchers[:] = [each for each in matchers if getattr(each, "matcher_identifier", "") != MATCHER]


class UsageParser(Parser):
    """A parser that raises IPython's UsageError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise _usage_error(f"{message}; `%{NAME} --help` lists the options")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise Done


class Done(Exception):  # noqa: N818  no error
    """Raised after the help was printed."""


def _usage_error(text: str) -> Exception:
    """Return an exception that IPython shows as one line, without a traceback."""
    from IPython.core.error import UsageError

    return UsageError(printable(text))


def make_parser() -> UsageParser:
    """Return the parser of the options: those of `llmlite run`, and `--out`."""
    parser = UsageParser(
        prog=f"%{NAME}",
        description="Continue a text or answer a question with a model. With %%llm, the cell is the prompt.",
        epilog=EXAMPLES,
    )
    add_model(parser)
    parser.add_argument("-p", "--prompt", help=f'for %%llm: the prompt (default: "{PROMPT}")')
    parser.add_argument("--no-echo", action="store_true", help="for %%llm: print only the new text")
    parser.add_argument("--chat", action="store_true", help="answer the prompt as a question")
    parser.add_argument("--system", metavar="TEXT", help="with --chat: the system message")
    parser.add_argument("--out", metavar="NAME", type=_variable, help="store the Generation in this variable")
    add_length(parser)
    add_choice(parser)
    add_engine(parser)
    return parser


def _variable(text: str) -> str:
    if not text.isidentifier() or keyword.iskeyword(text):
        raise argparse.ArgumentTypeError(f"expected a variable's name, got {text!r:.80}")
    return text


class Magic:
    """The implementation of `%llm` and `%%llm` in one shell.

    Attributes:
        shell: IPython's shell.
        loaded: the options of the last model, and the model; None before the first one.
    """

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.parser = make_parser()
        self.words: Words = tree(self.parser)
        self.loaded: tuple[object, Model] | None = None

    def run(self, line: str, cell: str | None) -> None:
        """Run a line. If there is a cell under it, the cell is the prompt.

        Raises:
            UsageError: IPython's, with one line: an option is invalid, or the model can't be loaded or run.
        """
        try:
            options = self.parser.parse_args(shlex.split(line))
            prompt = _prompt(options, cell)
            generation = self._begin(options, prompt)
            if cell is None and not options.chat and not options.no_echo:
                say(prompt, end="")
            _show(generation)
        except Done:
            return
        except EXPECTED as error:
            raise _usage_error(sentence(error)) from None
        if options.out:
            self.shell.user_ns[options.out] = generation
        if not options.quiet:
            say(f"[{figures(generation)}]")

    def _begin(self, options: argparse.Namespace, prompt: str) -> Generation:
        check_options(options)
        model = self._model(options)
        choices = answer_options(options, model)
        if options.out:
            choices["logprobs"] = 5
        if not options.chat:
            return continuation(model, prompt, choices)
        conversation = Conversation(model, choices, system=options.system or "")
        conversation.ask(prompt)
        return conversation.answer()

    def _model(self, options: argparse.Namespace) -> Model:
        """Return the model of these options. It stays loaded while the options are the same."""
        key = (options.model, options.ctx, options.kv, options.executor, options.threads, *options.lora)
        if self.loaded is None or self.loaded[0] != key:
            self.loaded = None  # frees its memory before another one is loaded
            self.loaded = (key, load_model(options))
        return self.loaded[1]

    # ---- completion --------------------------------------------------------------------------------------

    def complete(self, context: Any) -> Any:
        """Complete options, their values, models and files in a line of `%llm`: IPython's matcher, API v2."""
        found = ASKED_FOR.match(context.text_until_cursor)
        if found is None:
            return {"completions": [], "suppress": False}
        from IPython.core.completer import SimpleCompletion

        before, _, fragment = ("\n" + found["rest"].replace("\t", " ")).rpartition(" ")
        fragment = fragment.lstrip("\n")
        texts = self.offered(before.split(), fragment)
        return {
            "completions": [SimpleCompletion(text, type="magic") for text in texts],
            "matched_fragment": fragment,
            "suppress": True,
            "ordered": True,
        }

    def offered(self, before: list[str], fragment: str) -> list[str]:
        """Return the words that complete `fragment`, after the words `before` it in the line."""
        entries = self.words[""]
        option = before[-1] if before and before[-1].startswith("-") else ""
        words = entries[option] if option in entries else entries[""]
        found = [word for word in words if word != FILE and word.startswith(fragment)]
        if not fragment.startswith("-"):
            found = [word for word in found if not word.startswith("-")]
            if FILE in words:
                found += _files(fragment)
            if option in ("", "--draft"):
                found += [name for name in _names() if name.startswith(fragment) and name not in found]
        return found


def _prompt(options: argparse.Namespace, cell: str | None) -> str:
    if cell is None:
        return PROMPT if options.prompt is None else options.prompt
    if options.prompt is not None:
        raise LlmliteError("--prompt: with %%llm, the cell is the prompt; remove one of them")
    prompt = cell.removesuffix("\n")
    if not prompt.strip():
        raise LlmliteError("the cell is empty; write the prompt under %%llm")
    return prompt


def _show(generation: Generation) -> None:
    """Print the pieces as they arrive. An interrupt ends the text; the part so far is kept."""
    with stopping(generation):
        for piece in generation:
            say(piece, end="", flush=True)
    say(flush=True)


def _names() -> list[str]:
    """Return the names of pulled models, and of other programs' models."""
    try:
        pulled = [model.name for model, _ in catalog.pulled(cache_dir())]
        return [*pulled, *(found.name for found in catalog.everything())]
    except (LlmliteError, OSError):
        return []


def _files(fragment: str) -> list[str]:
    """Return paths that begin like this, folders with a slash. Paths with a blank are omitted."""
    found = sorted(glob.glob(glob.escape(fragment) + "*"))[:100]
    return [path + "/" * os.path.isdir(path) for path in found if " " not in path]
