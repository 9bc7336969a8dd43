"""GGUF files: read, write, split and merge them, and convert files of older formats.

from llmlite import gguf
file = gguf.read("model.gguf")
file.metadata["general.architecture"]
file.tensors["blk.0.attn_q.weight"].dequantize()
gguf.write("copy.gguf", file.metadata, file.tensors)
"""

from llmlite.errors import GGUFError, GGUFWarning
from llmlite.gguf.check import check_weights
from llmlite.gguf.content import Field, Metadata
from llmlite.gguf.file import GGUFFile, from_bytes
from llmlite.gguf.legacy import LegacyFile, convert_legacy, read_legacy
from llmlite.gguf.reading import read
from llmlite.gguf.shards import merge, split
from llmlite.gguf.values import StringArray, Typed
from llmlite.gguf.writer import write
from llmlite.system.files import replacing

__all__ = [
    "Field",
    "GGUFError",
    "GGUFFile",
    "GGUFWarning",
    "LegacyFile",
    "Metadata",
    "StringArray",
    "Typed",
    "check_weights",
    "convert_legacy",
    "from_bytes",
    "merge",
    "read",
    "read_legacy",
    "replacing",
    "split",
    "write",
]
