"""Read, run, measure and understand quantized language models.

    import llmlite as ll
    model = ll.load("tales")                       # the bundled model, or a path
    print(model.generate("Once upon a time", max_tokens=60, temperature=0))
    ll.gguf.read(path).tensors["blk.0.attn_q.weight"].dequantize()

Public names load on first use (PEP 562), so importing llmlite imports no third-party module.
"""

from llmlite._version import __version__

TYPE_CHECKING = False  # type checkers take this name as true; this avoids importing typing
if TYPE_CHECKING:
    from llmlite import bench, chat, errors, gguf, lessons, plots, quants, resources, tokenizers, widgets
    from llmlite.downloads import pull
    from llmlite.errors import (
        ChatTemplateError,
        ContentError,
        ContextOverflowError,
        GGUFError,
        GGUFWarning,
        LlmliteError,
        MissingFileError,
        ModelError,
        SamplingError,
        TokenizerError,
        UnsupportedError,
    )
    from llmlite.generate import Batch, Generation
    from llmlite.huggingface import convert_folder
    from llmlite.inventory import models
    from llmlite.model import Model, load
    from llmlite.quantize import quantize_file
    from llmlite.quants.tensor import QuantTensor
    from llmlite.resources import cache_dir, data_path, model_path, notebooks_path
    from llmlite.sampling import Sampler

_MODULES = frozenset("bench chat errors gguf lessons plots quants resources tokenizers widgets".split())
# public name -> the module that defines it
_NAMES = {
    "load": "model",
    "Model": "model",
    "QuantTensor": "quants.tensor",
    "Sampler": "sampling",
    "Generation": "generate",
    "Batch": "generate",
    "convert_folder": "huggingface",
    "quantize_file": "quantize",
    "data_path": "resources",
    "notebooks_path": "resources",
    "cache_dir": "resources",
    "pull": "downloads",
    "models": "inventory",
    "model_path": "resources",
    "LlmliteError": "errors",
    "MissingFileError": "errors",
    "GGUFError": "errors",
    "GGUFWarning": "errors",
    "ChatTemplateError": "errors",
    "UnsupportedError": "errors",
    "TokenizerError": "errors",
    "ContextOverflowError": "errors",
    "ContentError": "errors",
    "ModelError": "errors",
    "SamplingError": "errors",
}

__all__ = ["__version__", *sorted(_MODULES), *sorted(_NAMES)]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"llmlite.{name}")
    if name in _NAMES:
        value = getattr(import_module(f"llmlite.{_NAMES[name]}"), name)
        globals()[name] = value  # the next access finds it without this function
        return value
    raise AttributeError(f"module 'llmlite' has no attribute {name!r}")


def load_ipython_extension(shell: object) -> None:
    """Add `%llm` and `%%llm` to a notebook: `%load_ext llmlite`."""
    from llmlite.magic import load as load_magic

    load_magic(shell)


def unload_ipython_extension(shell: object) -> None:
    """Remove `%llm` and `%%llm`: `%unload_ext llmlite`."""
    from llmlite.magic import unload

    unload(shell)


def __dir__() -> list[str]:
    return sorted({*__all__, "__all__", "__doc__", "__file__", "__name__", "__path__"})
