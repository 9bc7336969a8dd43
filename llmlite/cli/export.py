"""Write a folder with which another server offers a model.

triton: a model repository for Triton Inference Server. Its models forward to a
running `llmlite serve`.
"""

from __future__ import annotations

import argparse

from llmlite.terminal import say

HELP = "write a folder for another server (Triton)"
EXAMPLES = """\
examples:
  llmlite export triton repository
  llmlite export triton repository --name smollm2 --url http://10.0.0.5:9000
then, as the folder's README.md says:
  llmlite serve tales
  tritonserver --model-repository repository
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("form", choices=("triton",), help="what for")
    parser.add_argument("folder", metavar="FOLDER", help="a new folder")
    parser.add_argument("--name", default="tales", help="the name that llmlite serve gives the model (tales)")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="of llmlite serve (%(default)s)")


def run(options: argparse.Namespace) -> int:
    from llmlite.serve.triton import export

    for path in export(options.folder, name=options.name, url=options.url):
        say(path)
    return 0
