"""Make wheels with tiny models, the rows of the table that describe them, and an index that serves them."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from llmlite.catalog import Packaged, Wheel

LICENCE = "Do what you like with it.\n"
WHOLE = {"pulled/tiny/tiny.gguf", "pulled/tiny/LICENSE", "pulled/tiny/pulled.json"}  # the files of a pull


def write_wheel(folder: Path, project: str, files: dict[str, bytes]) -> Path:
    """Write a wheel of version 1.0 with these files and one dependency, which doesn't exist."""
    base = project.replace("-", "_")
    path = folder / f"{base}-1.0-py3-none-any.whl"
    info = f"{base}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\nRequires-Dist: nosuch-dependency\n"
    tags = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/LICENSE", LICENCE)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    return path


def row(
    paths: list[Path],
    members: list[list[tuple[str, str]]],
    checked: bytes,
    *,
    name: str = "tiny",
    file: str = "tiny.gguf",
    type: str = "Q4_1",
    folder: str = "",
    checked_name: str | None = None,
) -> Packaged:
    """Return a row of the table for written wheels; its checksum is that of the bytes `checked`."""
    wheels = tuple(
        Wheel(
            project=path.name.split("-")[0].replace("_", "-"),
            version="1.0",
            file=path.name,
            n_bytes=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            members=tuple(inside),
        )
        for path, inside in zip(paths, members)
    )
    return Packaged(
        name=name,
        title="A tiny model",
        wheels=wheels,
        file=file,
        type=type,
        checked=checked_name or file,
        n_bytes=len(checked),
        sha256=hashlib.sha256(checked).hexdigest(),
        folder=folder,
        licence="Public domain",
        purpose="tests",
    )


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Run a server on this machine and yield its address; `answer(handler)` writes each reply."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()


def reply(handler: BaseHTTPRequestHandler, code: int, body: bytes, kind: str, **headers: str) -> None:
    """Write a whole reply; a HEAD request gets only its headers."""
    handler.send_response(code)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(body)


def left_in(cache: Path) -> set[str]:
    """Return every file under the cache folder, and every folder of unfinished work."""
    return {
        path.relative_to(cache).as_posix()
        for path in cache.rglob("*")
        if path.is_file() or path.suffix == ".part"
    }
