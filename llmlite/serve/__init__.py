"""A server for one model, with the HTTP APIs of OpenAI, ollama, KServe and SageMaker.

    from llmlite.serve import Settings, make_app
    app = make_app(model, Settings(name="tales"))     # an ASGI application

`llmlite serve MODEL` runs it. This needs the extra `serve`.
"""

from __future__ import annotations

from llmlite.serve.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from llmlite.serve.web import make_app

__all__ = ["Settings", "make_app"]


def __getattr__(name: str) -> object:
    if name == "make_app":  # imported on first use, because it needs the extra
        from llmlite.serve.web import make_app

        return make_app
    raise AttributeError(f"module 'llmlite.serve' has no attribute {name!r}")
