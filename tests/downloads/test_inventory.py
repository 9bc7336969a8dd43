"""What is here: names, types, sizes and memory, in every program's own layout, and nothing that breaks it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

import llmlite as ll
from llmlite import catalog, cli, resources
from llmlite.catalog import folders
from llmlite.catalog.folders import choose, find, hugging_face, is_model, llama_cpp, lm_studio, ollama
from llmlite.errors import LlmliteError
from llmlite.inventory import models
from tests.support.tiny_models import tiny_model


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without any model, and none of the variables that lead elsewhere."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "LLAMA_CACHE", "OLLAMA_MODELS",
                 "XDG_CACHE_HOME", "LOCALAPPDATA"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.setattr(folders.sys, "platform", "linux")
    monkeypatch.setenv("LLMLITE_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model().write(tmp_path_factory.mktemp("model") / "tiny.gguf", "Q8_0")


def put(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    return target


def put_ollama(root: Path, name: str, weights: bytes, licence: str = "", **changes: object) -> Path:
    """Write a model as ollama keeps it; return the blob. name: HOST/NAMESPACE/MODEL/TAG."""
    layers = []
    for kind, data in ((folders.OLLAMA_MODEL, weights), (folders.OLLAMA_LICENCE, licence.encode())):
        digest = hashlib.sha256(data).hexdigest()
        blob = root / "blobs" / f"sha256-{digest}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        layers.append({"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)})
    manifest = root / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers} | changes))
    return root / "blobs" / layers[0]["digest"].replace(":", "-")


# --- whose folders ----------------------------------------------------------------------------


def test_files_of_llama_cpp_are_found_by_their_name(
    monkeypatch: pytest.MonkeyPatch, home: Path, model: Path, tmp_path: Path
) -> None:
    path = put(model, home / ".cache" / "llama.cpp" / "tiny.gguf")
    put(model, path.with_name("mmproj-tiny.gguf"))
    put(model, path.with_name("notes.txt"))
    assert [found.name for found in llama_cpp()] == ["llamacpp:tiny.gguf"]
    assert find("llamacpp:tiny.gguf") == path
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "other"))
    assert llama_cpp() == []


def test_files_of_lm_studio_are_found_where_its_settings_say(home: Path, model: Path, tmp_path: Path) -> None:
    older = put(model, home / ".cache" / "lm-studio" / "models" / "acme" / "tiny" / "old.gguf")
    assert find("lmstudio:acme/tiny/old.gguf") == older
    today = put(model, home / ".lmstudio" / "models" / "acme" / "tiny" / "tiny.gguf")
    assert [found.path for found in lm_studio()] == [today]
    moved = put(model, tmp_path / "moved" / "acme" / "tiny" / "moved.gguf")
    (home / ".lmstudio" / "settings.json").write_text(
        json.dumps({"downloadsFolder": str(tmp_path / "moved")})
    )
    assert [found.path for found in lm_studio()] == [moved]
    (home / ".lmstudio-home-pointer").write_text(str(tmp_path / "elsewhere") + "\n")
    put(model, tmp_path / "elsewhere" / "models" / "a" / "b" / "c.gguf")
    assert [found.name for found in lm_studio()] == ["lmstudio:a/b/c.gguf"]


def test_blobs_of_ollama_are_found_by_their_manifest(home: Path, model: Path) -> None:
    root = home / ".ollama" / "models"
    data = model.read_bytes()
    blob = put_ollama(root, "registry.ollama.ai/library/tiny/latest", data, "\nMIT License\n\nCopyright")
    put_ollama(root, "registry.ollama.ai/acme/tiny/8b", data)
    put_ollama(root, "hub.example/acme/tiny/8b", data)
    found = {entry.name: entry for entry in ollama()}
    assert set(found) == {"ollama:tiny:latest", "ollama:acme/tiny:8b", "ollama:hub.example/acme/tiny:8b"}
    assert found["ollama:tiny:latest"].licence == "MIT License"
    assert find("ollama:tiny") == find("ollama:tiny:latest") == blob
    assert ll.load("ollama:tiny", executor="eager").logits([1]).shape[0] == 1


@pytest.mark.parametrize(
    "manifest",
    [
        "", "{", "[]", "null", "3", '"text"', "[" * 100_000, '{"layers": 3}', '{"layers": [3, null, {}]}',
        '{"layers": [{"mediaType": "application/vnd.ollama.image.model"}]}',
        '{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../../x"}]}',
        '{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": ["a"]}]}',
        json.dumps({"layers": [{"mediaType": folders.OLLAMA_MODEL, "digest": "sha256:" + "0" * 64}]}),
    ],
)  # fmt: skip
def test_a_manifest_that_makes_no_sense_is_left_out(home: Path, manifest: str) -> None:
    path = home / ".ollama" / "models" / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "latest"
    path.parent.mkdir(parents=True)
    path.write_text(manifest)
    assert ollama() == []


def test_the_newest_revision_in_hugging_faces_cache_is_taken(
    monkeypatch: pytest.MonkeyPatch, home: Path, model: Path, tmp_path: Path
) -> None:
    repository = home / ".cache" / "huggingface" / "hub" / "models--acme--tiny--model"
    old = put(model, repository / "snapshots" / "aaaa" / "tiny-Q8_0.gguf")
    new = put(model, repository / "snapshots" / "bbbb" / "tiny-Q8_0.gguf")
    os.utime(old.parent, (1e9, 1e9))
    assert [found.name for found in hugging_face()] == ["acme/tiny--model:tiny-Q8_0.gguf"]
    assert find("acme/tiny--model") == find("acme/tiny--model:Q8_0") == new
    put(model, new.with_name("tiny-Q4_0.gguf"))
    with pytest.raises(LlmliteError, match="say which file: tiny-Q4_0.gguf, tiny-Q8_0.gguf"):
        find("acme/tiny--model")
    with pytest.raises(LlmliteError, match="llmlite pull acme/tiny--model:Q2_K.*this machine: tiny-Q4_0"):
        find("acme/tiny--model:Q2_K")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere"))
    assert hugging_face() == []


@pytest.mark.skipif(os.name != "posix", reason="links and pipes as POSIX has them")
def test_rings_of_links_and_pipes_are_passed_by(home: Path, model: Path) -> None:
    root = home / ".cache" / "llama.cpp"
    put(model, root / "tiny.gguf")
    (root / "ring").symlink_to(root)
    (root / "lost.gguf").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe.gguf")
    os.mkfifo(home / ".lmstudio-home-pointer")
    assert [found.name for found in catalog.everything()] == ["llamacpp:tiny.gguf"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m.gguf", True),
        ("m-00001-of-00003.gguf", True),
        ("m-00002-of-00003.gguf", False),
        ("mmproj-m.gguf", False),
        ("m.safetensors", False),
    ],
)
def test_which_files_are_models(name: str, expected: bool) -> None:
    assert is_model(name) is expected


def test_a_type_chooses_the_file_that_has_it_as_a_word() -> None:
    names = ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "sub/m.IQ4_XS.gguf", "m-q8_0-00001-of-00002.gguf"]
    assert choose(names, None) == names
    assert choose(names, "q4_k_m") == ["m-Q4_K_M.gguf"]
    assert choose(names, "Q4_K") == []
    assert choose(names, "IQ4_XS") == ["sub/m.IQ4_XS.gguf"]
    assert choose(names, "Q8_0") == ["m-q8_0-00001-of-00002.gguf"]
    assert choose(names, "m-Q4_K_S.gguf") == ["m-Q4_K_S.gguf"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ollama:tny", r"ollama has no model of that name on this machine; did you mean ollama:tiny:latest"),
        ("lmstudio:x", r"LM Studio has no model of that name on this machine; `llmlite models` lists"),
        ("acme/tiny", r"the model is not here yet; `llmlite pull acme/tiny` downloads it"),
        ("folder/model.gguf", r"folder/model.gguf: no such file"),
        ("a/b/c", r"a/b/c: no such file"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_to_do(home: Path, model: Path, name: str, words: str) -> None:
    put_ollama(home / ".ollama" / "models", "registry.ollama.ai/library/tiny/latest", model.read_bytes())
    with pytest.raises(LlmliteError, match=words):
        resources.model_path(name)


# --- the list ---------------------------------------------------------------------------------


def test_memory_is_what_loading_takes(tales: Path) -> None:
    entry = models()[0]
    model = ll.load("tales", executor="eager")
    assert (entry.name, entry.owner, entry.path, entry.licence) == ("tales", "bundled", tales, "MIT")
    assert entry.n_bytes == tales.stat().st_size
    assert entry.weights == sum(tensor.n_bytes for tensor in model.gguf.tensors.values())
    assert (entry.n_ctx, entry.cache) == (model.n_ctx, model.cache.n_bytes)
    assert entry.memory == entry.weights + entry.cache


def test_siblings_are_listed_by_the_name_that_loads_them_until_they_are_out_of_date(tmp_path: Path) -> None:
    path = resources.model_path("tales:Q4_K")
    (entry,) = [entry for entry in models() if entry.owner == "cached"]
    assert (entry.name, entry.type, entry.path) == ("tales:Q4_K_M", "Q4_K_M", path)
    assert resources.model_path(entry.name) == path
    stale = path.with_name(path.name.replace(path.stem.split("-")[2], "0123456789ab"))
    path.rename(stale)
    put(stale, path.with_name("note.gguf"))
    assert [entry.owner for entry in models()] == ["bundled"]


def test_every_listed_name_can_be_loaded(home: Path, model: Path) -> None:
    put(model, home / ".cache" / "llama.cpp" / "tiny.gguf")
    put(model, home / ".lmstudio" / "models" / "acme" / "tiny" / "tiny.gguf")
    put(model, home / ".cache/huggingface/hub/models--acme--tiny/snapshots/abc/sub/tiny.gguf")
    put_ollama(home / ".ollama" / "models", "registry.ollama.ai/library/tiny/latest", model.read_bytes())
    resources.model_path("tales:Q8_0")
    entries = models()
    assert len(entries) == 6
    for entry in entries:
        assert resources.model_path(entry.name) == entry.path
        assert not entry.problem


def test_a_file_that_cannot_be_read_or_run_is_listed_with_the_reason(
    home: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = home / ".cache" / "llama.cpp"
    put(model, root / "cut.gguf").write_bytes(model.read_bytes()[:100])
    (root / "empty.gguf").write_bytes(b"")
    odd = tiny_model()
    odd.metadata["general.architecture"] = "nosuch\x1b[31m"
    odd.write(root / "odd.gguf")
    problems = {entry.name: entry.problem for entry in models()}
    assert problems["tales"] == ""
    assert all(problems[f"llamacpp:{name}.gguf"] for name in ("cut", "empty", "odd"))
    assert cli.main(["models"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert shown.count("can't run here: ") == 3


def test_the_list_fits_a_terminal_and_tells_what_can_be_pulled(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[:3] == ["tales", "bundled", "F16"]
    for name in catalog.PACKAGED:
        assert any(line.startswith(f"  llmlite pull {name} ") for line in lines)


def test_json_has_everything(capsys: pytest.CaptureFixture[str], tales: Path) -> None:
    assert cli.main(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (entry,) = found["models"]
    assert (entry["name"], entry["path"]) == ("tales", str(tales))
    assert entry["memory"] == entry["weights"] + entry["cache"] > 0
    assert {row["name"] for row in found["to_pull"]} == set(catalog.PACKAGED)


def test_listing_uses_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert models()
