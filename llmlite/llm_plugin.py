"""A plugin for Simon Willison's `llm`, which runs the models on this machine with llmlite.

    pip install llm llmlite-kit
    llm -m llmlite/tales "Tell a tale."
    llm -m llmlite/tales -o raw 1 -o seed 3 "Once upon a time"

Only `llm` imports this module, by the entry point group `llm`. Source: the plugin interface at
https://llm.datasette.io/en/stable/plugins/ (`register_models`, `Model.execute`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import llm
from pydantic import Field, create_model

from llmlite import catalog, resources
from llmlite.cli.run import add_choice, add_length
from llmlite.errors import LlmliteError, ModelError
from llmlite.generate.options import BatchOptions
from llmlite.model import load
from llmlite.repl.conversation import settable

if TYPE_CHECKING:
    from llmlite.generate import Generation
    from llmlite.model import Model

PREFIX = "llmlite/"
OWN = {
    "raw": (bool, "continue the prompt as plain text, not as a conversation"),
    "context": (int, "length of the context in tokens (default: the model's, up to 4096)"),
    "threads": (int, "number of threads"),
}


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Register every model on this machine by its name, without opening its file."""
    for name in names():
        register(LlmliteModel(name))


def names() -> list[str]:
    """Return the names for `llmlite.load`: bundled models, pulled ones, and those of other programs."""
    found = list(resources.BUNDLED_MODELS)
    try:
        found += [model.name for model, _ in catalog.pulled(resources.cache_dir())]
        found += [each.name for each in catalog.everything()]
    except (LlmliteError, OSError):  # the cache folder can't be read: list the others
        pass
    return found


def _options() -> Any:
    """Return the class of the options for `-o NAME VALUE`: those of `Model.stream`, and OWN."""
    parser = argparse.ArgumentParser()
    add_length(parser)
    add_choice(parser)
    helps = {action.dest: (action.help or "").partition(" (default")[0] for action in parser._actions}
    fields: dict[str, Any] = {}
    for name in settable():
        kind: Any = str if name == "stop" else _kind(name)
        fields[name] = (kind | None, Field(default=None, description=helps.get(name) or None))
    for name, (kind, text) in OWN.items():
        fields[name] = (kind | None, Field(default=None, description=text))
    return create_model("Options", __base__=llm.Options, **fields)


def _kind(name: str) -> type:
    """Return int or float, from the beginning of the option's annotation."""
    text = BatchOptions.__annotations__[name]
    text = getattr(text, "__forward_arg__", text)
    return float if str(text).startswith("float") else int


class LlmliteModel(llm.Model):
    """One model. Its file is opened at the first prompt and stays open."""

    can_stream = True
    supports_schema = True
    Options = _options()

    def __init__(self, name: str) -> None:
        self.name = name
        self.model_id = PREFIX + name
        self._loaded: tuple[Any, Model] | None = None

    def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any | None = None
    ) -> Iterator[str]:
        """Yield the answer piece by piece, or all of it at once if `stream` is False.

        Raises:
            LlmliteError: there is no such model, the conversation doesn't fit the context, or the template
                refuses it.
            ValueError: an option is outside its range.
        """
        options = {key: value for key, value in prompt.options.model_dump().items() if value is not None}
        own = {key: options.pop(key, None) for key in OWN}
        model = self._model(own["context"], own["threads"])
        if prompt.schema:
            options["json_schema"] = prompt.schema
        generation = begin(model, messages(prompt), options, raw=bool(own["raw"]))
        try:
            if stream:
                yield from generation
            else:
                yield "".join(generation)
        finally:
            generation.cancel()  # if the reader stopped early
        response.set_usage(input=generation.n_prompt, output=len(generation.ids))

    def _model(self, n_ctx: int | None, n_threads: int | None) -> Model:
        key = (n_ctx, n_threads)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = (key, load(self.name, n_ctx=n_ctx, n_threads=n_threads))
        return self._loaded[1]


def messages(prompt: Any) -> list[dict[str, str]]:
    """Return the conversation so far, with this prompt, as llmlite's messages."""
    found = []
    for message in prompt.messages:
        texts = [part.text for part in message.parts if isinstance(part, llm.parts.TextPart)]
        if len(texts) < len(message.parts) and not texts:
            raise LlmliteError(f"a message of the {message.role} has no text; this plugin supports only text")
        found.append({"role": message.role, "content": "".join(texts)})
    return found


def begin(model: Model, talk: list[dict[str, str]], options: dict[str, Any], *, raw: bool) -> Generation:
    """Begin the answer. A model without a chat template continues a single prompt as plain text."""
    is_plain = len(talk) == 1 and talk[0]["role"] == "user"
    if raw and not is_plain:
        raise LlmliteError("raw: continues one prompt; drop the system message, or begin a new conversation")
    if raw or (is_plain and not model.chat_templates):
        return model.stream(talk[0]["content"], **options)
    if not model.chat_templates:
        raise ModelError.missing("tokenizer.chat_template", "this model has no chat template")
    return model.stream_chat(talk, **options)
