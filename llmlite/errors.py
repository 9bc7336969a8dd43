"""All exceptions that a user can get, with one base class.

The text of each is a single sentence with the place, the expected value and the actual one. The command line
prints it and exits with code 2. In Python, catch LlmliteError or one of its subclasses.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llmlite.terminal import printable

if TYPE_CHECKING:
    from typing import Self


class LlmliteError(Exception):
    """The base class of llmlite's errors.

    The text may quote a file. `str` escapes characters that could steer a terminal.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class MissingFileError(LlmliteError, FileNotFoundError):
    """A file or a folder is missing. The arguments are those of OSError: (errno.ENOENT, text, path)."""

    def __str__(self) -> str:
        return printable(f"{self.filename}: {self.strerror}" if self.filename else str(self.strerror))


class GGUFError(LlmliteError):
    """A model file is malformed, cut off, or of a kind that can't be read.

    Attributes:
        path: the path as the caller gave it; None for bytes in memory.
        field: the field of the format: "n_tensors", "blk.0.attn_q.weight: offset".
        offset: offset of the field, in bytes from the start of the file; None if it has no position.
        expected: the expected value, as a phrase: "at most 64 bytes".
        got: the value that was found.
        hint: a hint at the cause or the remedy, or None.
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
    """Warns of a GGUF file that can be read but is unusual, for example with bytes after the last tensor."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ContentError(LlmliteError):
    """A file can be read, but its content is invalid. The text begins with the key or tensor, if any.

    Attributes:
        path: path of the file, if known.
        offset: offset in the file of the value or tensor, if known.
        key: the key or tensor, or None.
        index: index of the element, if the value is an array; else None.
        expected, got: as in GGUFError; empty if the error isn't about one value.
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
        """The key or tensor, with the index in an array: "tokenizer.ggml.tokens[7]"."""
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

        got: a string is shown unchanged, other values by the first 80 characters of their representation.
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
    """Warns that the slow executor is used, because the compiled one isn't available; has the reason."""


class AMXWarning(UserWarning):
    """Warns that the CPU's AMX tiles are not used.

    They give other numbers than the other kernels, or their kernels aren't available.
    """


class UnsupportedError(ContentError):
    """A tensor type, an architecture or a feature isn't supported."""


class TokenizerError(ContentError):
    """A vocabulary or tokenizer is malformed or of an unknown kind."""


class ChatTemplateError(LlmliteError):
    """A chat template is malformed, uses something forbidden, or exceeds a limit."""


class ResultsError(LlmliteError, ValueError):
    """A file of measurements is damaged or of another kind. The text names file, line and field."""


class ContextOverflowError(LlmliteError):
    """A prompt doesn't fit the model's context."""


class ModelError(ContentError):
    """A model's hyper-parameters or tensors don't fit together."""


class NumericsError(LlmliteError):
    """The forward pass computed a number that is not finite, because weights of the model are damaged.

    Attributes:
        operation: the first result with such a number, by its name in a trace ("attn_norm").
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
            "(llmlite show --check FILE searches for the tensor)",
            operation=operation,
            layer=layer,
        )

    @classmethod
    def of_input(cls, name: str, label: str = "") -> Self:
        """Make the error for an operation's input, called "name-layer" as in a trace."""
        stem, dash, layer = name.rpartition("-")
        return cls.at(stem, int(layer)) if dash and layer.isdigit() else cls.at(name or label, None)


class SamplingError(LlmliteError):
    """No token can be chosen from the logits: they are NaN, infinite, or all forbidden."""


class GrammarError(LlmliteError, ValueError):
    """A grammar, schema or pattern is malformed or too large, or allows no continuation of a text."""
