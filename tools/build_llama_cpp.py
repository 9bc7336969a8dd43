"""Build llama-perplexity, llama-imatrix and llama-quantize for tests that compare with them.

    python tools/build_llama_cpp.py FOLDER

The source is the llama.cpp in llama-cpp-python, at the version in constraints.txt. The build takes some
minutes, and needs cmake and a C++ compiler. Finished programs are kept. The folder of the programs is
printed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("llama-perplexity", "llama-imatrix", "llama-quantize")
SETTINGS = ("CMAKE_BUILD_TYPE=Release", "GGML_NATIVE=ON", "LLAMA_CURL=OFF", "LLAMA_OPENSSL=OFF",
            "LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_SERVER=OFF")  # fmt: skip


def source(folder: Path) -> Path:
    """Fetch and unpack the source package; return the folder of llama.cpp in it."""
    pin = re.search(r"^llama-cpp-python==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    if pin is None:
        raise SystemExit("constraints.txt: expected a line llama-cpp-python==VERSION, got none")
    call(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python",
         "--dest", folder, pin[0])  # fmt: skip
    archive = max(folder.glob("llama_cpp_python-*.tar.gz"), key=lambda path: path.stat().st_mtime)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"


def call(*command: object) -> None:
    """Run a command with its output on standard error; raise CalledProcessError if it fails."""
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder for the source and the programs; half a gigabyte")
    try:
        print(build_in(parser.parse_args().folder.resolve()))
    except OSError as error:
        print(f"build_llama_cpp: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"build_llama_cpp: this failed: {' '.join(error.cmd)}", file=sys.stderr)
        return 2
    return 0


def build_in(folder: Path) -> Path:
    """Build the missing programs and return their folder.

    Raises:
        OSError: the folder can't be written, or cmake is missing.
        CalledProcessError: a step of the build fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    build = folder / "build"
    if not all((build / "bin" / name).exists() for name in PROGRAMS):
        call("cmake", "-S", source(folder), "-B", build, *(f"-D{setting}" for setting in SETTINGS))
        call("cmake", "--build", build, "--parallel", "--target", *PROGRAMS)
    return build / "bin"


if __name__ == "__main__":
    sys.exit(main())
