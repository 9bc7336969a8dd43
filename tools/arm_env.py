"""Make a 64-bit ARM Python that this x86 machine emulates, to test correctness on ARM (not speed).

    python tools/arm_env.py --folder .venv-arm        # once: a minute, 600 MB
    .venv-arm/python -m pytest tests/quants/test_quants.py   # runs there

QEMU does the emulation. The system comes from this machine's apt sources, and the packages come from pip's
index. Nothing is installed: apt only downloads into the folder, and no step needs root. `sys.executable` is
the wrapper, so tests can start child processes. On an ARM machine, the wrapper just runs this Python. The
tool uses only the standard library.

Kernels are compiled for the ARM baseline. NUMBA_CPU_NAME and NUMBA_CPU_FEATURES choose another CPU, such as
neoverse-n1 and +neon,+dotprod,+fullfp16,+fp-armv8. The emulated CPU has every extension.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EMULATOR, PYTHON = "qemu-aarch64-static", "usr/bin/python3"
SYSTEM = [f"{name}:arm64" for name in ("python3", "libgomp1", "libstdc++6")]
PACKAGES = "numpy numba regex jinja2 tqdm pytest hypothesis".split()
MORE = "gguf tokenizers matplotlib ipywidgets".split()  # for more tests, which are skipped without them
PLATFORMS = [f"manylinux_2_{n}_aarch64" for n in (17, 26, 27, 28, 34)] + ["manylinux2014_aarch64"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", default=".venv-arm", type=Path)
    folder = parser.parse_args().folder
    folder = folder if folder.is_absolute() else ROOT / folder
    stamp, wanted = folder / "llmlite-arm.txt", (ROOT / "constraints.txt").read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    if platform.machine() in ("aarch64", "arm64"):
        print("setup: this machine is ARM, no emulation is needed", flush=True)
        write_wrapper(folder, f'exec "{sys.executable}" "$@"\n')
    else:
        require_debian()
        emulate(folder)
    check = [folder / "python", "-c", "import platform, numba; print(platform.machine(), numba.__version__)"]
    print("setup: ready: numba on", run(check, "the ARM Python doesn't start").strip(), flush=True)
    stamp.write_text(wanted, encoding="utf-8")
    return 0


def require_debian() -> None:
    """End with an error that names what is missing, unless this is Linux on x86-64 with apt."""
    missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
    if sys.platform != "linux" or platform.machine() != "x86_64":
        stop(f"expected Linux on x86-64 (or an ARM machine), got {sys.platform} on {platform.machine()}")
    if missing:
        stop(
            f"{' and '.join(missing)} missing: the ARM system comes from the apt sources of Debian or Ubuntu"
        )


def emulate(folder: Path) -> None:
    """Fetch the emulator, the system and the packages; write the wrapper."""
    root, site = folder / "root", folder / "site"
    emulator = shutil.which(EMULATOR) or str(folder / "host/usr/bin" / EMULATOR)
    print("setup: an ARM system from apt", flush=True)
    options = apt_options(folder / "apt")
    run(["apt-get", *options, "-q", "update"], "apt's lists can't be read")
    download(options, folder / "apt", SYSTEM, ("arm64", "all"), root)
    if not Path(emulator).exists():
        download(
            options, folder / "apt", ["qemu-user-static:amd64"], ("amd64",), folder / "host", only="qemu"
        )
    if not (root / PYTHON).exists():
        stop(f"apt's packages don't contain {PYTHON}")
    # PYTHONHOME, because sys.executable is the wrapper, which has no standard library beside it
    write_wrapper(
        folder,
        f'export PYTHONHOME="{root}/usr" PYTHONPATH="{site}${{PYTHONPATH:+:$PYTHONPATH}}"\n'
        f'exec "{emulator}" -cpu max -0 "{folder}/python" -L "{root}" "{root}/{PYTHON}" "$@"\n',
    )
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = run([folder / "python", "-c", code], "the emulated Python doesn't start").strip()
    shutil.rmtree(folder / "apt")
    print(f"setup: packages for Python {version} on ARM from pip", flush=True)
    fetch_packages(folder, version, site)


def apt_options(state: Path) -> list[str]:
    """Return options that make apt use its sources for both architectures and keep its lists in `state`."""
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    (state / "status").write_text("")
    options = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "1",
    }
    given = [f"{name}={value}" for name, value in options.items()]
    given += ["APT::Architecture=amd64", "APT::Architectures::=amd64", "APT::Architectures::=arm64"]
    return [part for option in given for part in ("-o", option)]


def download(
    options: list[str], state: Path, packages: list[str], kinds: tuple[str, ...], root: Path, only: str = ""
) -> None:
    """Download packages with their dependencies; unpack those of the architectures in `kinds`."""
    command = ["apt-get", *options, "-q", "-y", "--no-install-recommends", "--download-only", "install"]
    run([*command, *packages], f"apt's sources don't have {', '.join(packages)}")
    root.mkdir(parents=True, exist_ok=True)
    for package in sorted((state / "cache/archives").glob(f"{only}*.deb")):
        if package.stem.endswith(tuple(f"_{kind}" for kind in kinds)):
            run(["dpkg-deb", "-x", package, root], f"{package.name} can't be unpacked")


def fetch_packages(folder: Path, version: str, site: Path) -> None:
    """Download wheels for ARM and unpack them."""
    wheels = folder / "wheels"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "download",
        "--quiet",
        "--dest",
        wheels,
    ]
    pip += [
        "--only-binary=:all:",
        "--implementation",
        "cp",
        "--python-version",
        version,
        "-c",
        "constraints.txt",
    ]
    pip += [part for name in PLATFORMS for part in ("--platform", name)]
    run([*pip, *PACKAGES], "pip's index has no wheels for ARM")
    for name in MORE:
        if subprocess.run([*map(str, pip), name], cwd=ROOT, capture_output=True).returncode:
            print(f"setup: {name}: no wheel for ARM; its tests are skipped", flush=True)
    shutil.rmtree(site, ignore_errors=True)
    for wheel in sorted(wheels.glob("*.whl")):
        shutil.unpack_archive(wheel, site, "zip")
    shutil.rmtree(wheels)


def write_wrapper(folder: Path, body: str) -> None:
    wrapper = folder / "python"
    wrapper.write_text(f"#!/bin/sh\n{body}", encoding="utf-8")
    wrapper.chmod(0o755)


def run(command: list[object], failure: str) -> str:
    """Run a command and return its output; if it fails, end with `failure` and its last lines of output."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH")}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        stop(failure + "\n" + "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:]))
    return done.stdout


def stop(reason: str) -> None:
    print(f"arm_env: {reason}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main())
