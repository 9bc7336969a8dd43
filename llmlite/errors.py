"""Every exception a user can meet, under one base class."""

from __future__ import annotations


class LlmliteError(Exception):
    """Base of all of them: one sentence that says where, what was expected and what was found."""


class GGUFError(LlmliteError):
    """A GGUF file is malformed or cannot be read."""


class UnsupportedError(LlmliteError):
    """A tensor type, architecture or feature that this package doesn't support."""


class TokenizerError(LlmliteError):
    """A vocabulary or tokenizer is malformed or unknown."""


class ContextOverflowError(LlmliteError):
    """A prompt doesn't fit the model's context."""


class ModelError(LlmliteError):
    """A model's hyperparameters or tensors don't fit together."""
