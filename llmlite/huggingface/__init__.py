"""Convert models from Hugging Face: a folder of config.json, safetensors and tokenizer.json to one GGUF file.

from llmlite.huggingface import convert_folder
convert_folder("SmolLM2-135M-Instruct", "smollm2.gguf", file_type="Q8_0")
"""

from llmlite.huggingface.convert import convert_folder
from llmlite.huggingface.safetensors import read_safetensors

__all__ = ["convert_folder", "read_safetensors"]
