"""GGUF files: read, write, split and merge.

from llmlite import gguf
file = gguf.read("model.gguf")
file.metadata["general.architecture"]
file.tensors["blk.0.attn_q.weight"].dequantize()
gguf.write("copy.gguf", file.metadata, file.tensors)
"""

from llmlite.errors import GGUFError, GGUFWarning
from llmlite.gguf.file import Field, GGUFFile, Metadata, from_bytes, read
from llmlite.gguf.shards import merge, split
from llmlite.gguf.values import StringArray, Typed
from llmlite.gguf.writer import replacing, write

__all__ = [
    "Field",
    "GGUFError",
    "GGUFFile",
    "GGUFWarning",
    "Metadata",
    "StringArray",
    "Typed",
    "from_bytes",
    "merge",
    "read",
    "replacing",
    "split",
    "write",
]
