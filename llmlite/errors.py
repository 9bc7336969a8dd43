"""Every exception a user can meet, under one base class.

Each one's text is a single sentence: where, what was expected, what was found. The command line prints it and
exits with code 2; a caller in Python catches LlmliteError, or the class that interests it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llmlite.terminal import printable

if TYPE_CHECKING:
    from typing import Self


class LlmliteError(Exception):
    """Base of all of them: one sentence that says where, what was expected and what was found.

    The text may quote a file; `str` makes it fit for a terminal.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class MissingFileError(LlmliteError, FileNotFoundError):
    """A file or a folder isn't there. Made as an OSError is: (errno.ENOENT, what is missing, its path)."""

    def __str__(self) -> str:
        return printable(f"{self.filename}: {self.strerror}" if self.filename else str(self.strerror))


class GGUFError(LlmliteError):
    """A model file is malformed, cut off, or of a kind that can't be read.

    path: the file as the caller named it; None for bytes that never were a file.
    field: what was being read, in the format's words: "n_tensors", "blk.0.attn_q.weight: offset".
    offset: where that field begins, in bytes from the start of the file; None if it has
        no position there.
    expected: what would have been right, as a phrase: "at most 64 bytes".
    got: what was there instead.
    hint: what to do about it, or None.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        field: str,
        offset: int | None = None,
        expected: str = "",
        got: object = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(path, field, offset, expected, got, hint)
        self.path = None if path is None else os.fspath(path)
        self.field = field
        self.offset = offset
        self.expected = expected
        self.got = got
        self.hint = hint

    def __str__(self) -> str:
        place = "" if self.offset is None else f" at byte {self.offset}"
        text = f"{self.path or 'GGUF'}: {self.field}{place}"
        if self.expected:
            text += f": expected {self.expected}"
        if self.got != "":
            text += f"{',' if self.expected else ':'} got {self.got}"
        return printable(text + (f" ({self.hint})" if self.hint else ""))


class GGUFWarning(UserWarning):
    """A GGUF file can be read, but something about it is odd: bytes after the last tensor, for example."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ContentError(LlmliteError):
    """A file can be read, but what it says makes no sense. Its text begins with the key or tensor it's about.

    path, offset: the file, and where the value or entry begins in it, as far as known.
    key: the key or tensor it's about; None if it's about none. index: which element of an array, or None.
    expected: what would have been right, as a phrase; got: what was there instead. Both as in GGUFError, and
        empty if an error isn't about one value.
    """

    path: str | None = None
    offset: int | None = None

    def __init__(
        self,
        text: str = "",
        *,
        key: str | None = None,
        index: int | None = None,
        expected: str = "",
        got: object = "",
    ) -> None:
        super().__init__(text)
        self.key = key
        self.index = index
        self.expected = expected
        self.got = got

    @property
    def field(self) -> str | None:
        """The key or tensor, with the element of an array: "tokenizer.ggml.tokens[7]"."""
        return self.key if self.index is None else f"{self.key}[{self.index}]"

    @classmethod
    def about(
        cls, key: str, text: str, *, index: int | None = None, expected: str = "", got: object = ""
    ) -> Self:
        """Make the error "KEY: TEXT", or "KEY[INDEX]: TEXT"."""
        error = cls(text, key=key, index=index, expected=expected, got=got)
        error.args = (f"{error.field}: {text}",)
        return error

    @classmethod
    def at(cls, key: str, expected: str, got: object, note: str = "", *, index: int | None = None) -> Self:
        """Make the error "KEY: expected EXPECTED, got GOTNOTE".

        got: a string is shown as it is; of other values the representation, cut to 80 characters.
        """
        shown = got if isinstance(got, str) else f"{got!r:.80}"
        text = f"expected {expected}, got {shown}{note}"
        return cls.about(key, text, index=index, expected=expected, got=got)

    @classmethod
    def missing(cls, key: str, why: str) -> Self:
        """Make the error "KEY: missing; WHY"."""
        return cls.about(key, f"missing; {why}", expected="this key", got="nothing")

    @classmethod
    def absent(cls, tensor: str) -> Self:
        """Make the error "TENSOR: this tensor is missing"."""
        return cls.about(tensor, "this tensor is missing", expected="this tensor", got="nothing")

    def __str__(self) -> str:
        text = super().__str__()
        if self.path is not None:
            text = f"{printable(self.path)}: {text}"
        return text if self.offset is None else f"{text} (at byte {self.offset})"


class KernelError(LlmliteError):
    """A kernel can't be compiled or loaded on this machine."""


class FallbackWarning(UserWarning):
    """The compiled executor can't be had, so the slow one runs the model: why, and what to do."""


class AMXWarning(UserWarning):
    """The system grants the CPU's AMX tiles, but they give other numbers than the other kernels, or their
    kernels can't be had: they are not used.
    """


class UnsupportedError(ContentError):
    """A tensor type, architecture or feature that this package doesn't support."""


class TokenizerError(ContentError):
    """A vocabulary or tokenizer is malformed or of an unknown kind."""


class ChatTemplateError(LlmliteError):
    """A chat template is malformed, reaches for what it must not, or runs or writes too much."""


class ResultsError(LlmliteError, ValueError):
    """A file of measurements is damaged or of another kind; the text names file, line and field."""


class ContextOverflowError(LlmliteError):
    """A prompt doesn't fit the model's context."""


class ModelError(ContentError):
    """A model's hyperparameters or tensors don't fit together."""


class NumericsError(LlmliteError):
    """The forward pass met a number that is not finite: weights of the model are damaged.

    Attributes:
        operation: the first result that held such a number, by its name in a trace ("attn_norm").
        layer: its layer, or None outside the layers.
    """

    def __init__(self, text: str = "", *, operation: str = "", layer: int | None = None) -> None:
        super().__init__(text)
        self.operation = operation
        self.layer = layer

    @classmethod
    def at(cls, operation: str, layer: int | None) -> Self:
        """Make the error for the result `operation` of a layer."""
        where = operation if layer is None else f"{operation} of layer {layer}"
        return cls(
            f"{where}: holds a number that is not finite; the model's weights are damaged "
            "(llmlite show --check FILE looks for the tensor)",
            operation=operation,
            layer=layer,
        )

    @classmethod
    def of_input(cls, name: str, label: str = "") -> Self:
        """Make the error for an operation's input, called "name-layer" as in a trace."""
        stem, dash, layer = name.rpartition("-")
        return cls.at(stem, int(layer)) if dash and layer.isdigit() else cls.at(name or label, None)


class SamplingError(LlmliteError):
    """Logits from which no token can be chosen: NaN, infinite, or all forbidden."""


class GrammarError(LlmliteError, ValueError):
    """A grammar, schema or pattern is malformed or too large, or a text can't go on under it."""
