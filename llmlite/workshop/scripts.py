"""Write the files at the top of a stick: a script for each system, and a text to read first."""

from __future__ import annotations

from collections.abc import Sequence

from llmlite.workshop.target import Target

SH = """\
#!/bin/sh
# Install the workshop from this stick, without a network:  sh install.sh [FOLDER]
# FOLDER: where to (default: llmlite-workshop in your home folder). PYTHON=... chooses the interpreter.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${1:-$HOME/llmlite-workshop}
case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) system=linux ;;
    Darwin-arm64) system=macos ;;
    *) echo "This stick has nothing for $(uname -s) on $(uname -m). Pair up." >&2; exit 2 ;;
esac
try='import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])'
pins=
for python in ${PYTHON:-PYTHONS python3 python}; do
    version=$("$python" -c "$try" 2>/dev/null) || continue
    if [ -f "$here/pins/$system-$version.txt" ]; then
        pins="$here/pins/$system-$version.txt"
        break
    fi
done
if [ -z "$pins" ]; then
    echo "No Python here that this stick has packages for. It has: $(ls "$here/pins" | tr '\\n' ' ')" >&2
    echo "On Debian and Ubuntu, Python also needs the package python3-venv." >&2
    exit 2
fi
echo "Python $version, into $target"
mkdir -p "$target"
"$python" -m venv "$target/venv"
# Only the stick: no index, and no settings of this machine.
PIP_CONFIG_FILE=/dev/null "$target/venv/bin/python" -m pip --isolated install --quiet --no-index \\
    --disable-pip-version-check --find-links "$here/wheels" -r "$pins"
llmlite="$target/venv/bin/llmlite"
"$llmlite" lab --copy-only "$target/lessons"
MODELS_SH"$llmlite" warmup --lessons
echo "Your code, for the organiser:"
"$llmlite" doctor --code || "$llmlite" doctor
echo "Begin with:  $llmlite lab $target/lessons"
"""
PS1 = """\
# Install the workshop from this stick, without a network. Double-click install.bat, or:
#   powershell -ExecutionPolicy Bypass -File install.ps1 [FOLDER]
param([string]$Target = "$HOME\\llmlite-workshop")
$ErrorActionPreference = "Stop"
$here = $PSScriptRoot
$pins = $null
foreach ($version in @(VERSIONS)) {
    $file = Join-Path $here "pins\\windows-$version.txt"
    if (-not (Test-Path $file)) { continue }
    & py "-$version" -c "import venv" 2>$null
    if ($LASTEXITCODE -eq 0) { $pins = $file; break }
}
if (-not $pins) {
    Write-Host "No Python here that this stick has packages for. Install Python VERSION_LIST from python.org."
    exit 2
}
function Check { if ($LASTEXITCODE -ne 0) { Write-Host "The last step failed: ask for help."; exit 1 } }
Write-Host "Python $version, into $Target"
New-Item -ItemType Directory -Force $Target | Out-Null
& py "-$version" -m venv "$Target\\venv"; Check
$env:PIP_CONFIG_FILE = "nul"
& "$Target\\venv\\Scripts\\python.exe" -m pip --isolated install --quiet --no-index `
    --disable-pip-version-check --find-links "$here\\wheels" -r $pins; Check
$llmlite = "$Target\\venv\\Scripts\\llmlite.exe"
& $llmlite lab --copy-only "$Target\\lessons"; Check
MODELS_PS1& $llmlite warmup --lessons; Check
Write-Host "Your code, for the organiser:"
& $llmlite doctor --code
Write-Host "Begin with:  $llmlite lab $Target\\lessons"
"""
BAT = """\
@powershell -NoProfile -ExecutionPolicy Bypass -File "%~dp0install.ps1" %*
@pause
"""
README = """\
A workshop on quantized language models, without a network
===========================================================

Windows         double-click install.bat
Linux, macOS    sh install.sh

They need Python with packages on this stick: TARGETS.
They write to llmlite-workshop in your home folder, and print how to begin. To remove everything, delete that
folder and the cache folder that `llmlite doctor` names.

wheels/    Python packages; each has its own licence inside
lessons/   the notebooks, to look at without installing (MIT licence)
site/      the lessons as web pages, if the organiser put them here: open site/index.html
bundle.json  every file with its SHA-256
MODELS
"""


def all_of(targets: Sequence[Target], models: Sequence[str]) -> dict[str, str]:
    """Return file name -> text for these targets and packaged models."""
    names = [target.name for target in targets]
    systems = {target.system.name for target in targets}
    versions = sorted({target.python for target in targets}, key=lambda text: int(text[2:]), reverse=True)
    made = {"README.txt": README.replace("TARGETS", ", ".join(names))}
    made["README.txt"] = made["README.txt"].replace(
        "MODELS\n", f"models/    {', '.join(models)}\n" if models else ""
    )
    if systems & {"linux", "macos"}:
        pulls = "".join(f'"$llmlite" pull {name} --from "$here/models"\n' for name in models)
        made["install.sh"] = SH.replace("PYTHONS", " ".join(f"python{v}" for v in versions)).replace(
            "MODELS_SH", pulls
        )
    if "windows" in systems:
        pulls = "".join(f'& $llmlite pull {name} --from "$here\\models"; Check\n' for name in models)
        text = PS1.replace("VERSIONS", ", ".join(f'"{v}"' for v in versions))
        text = text.replace("VERSION_LIST", " or ".join(versions)).replace("MODELS_PS1", pulls)
        made |= {"install.ps1": text.replace("\n", "\r\n"), "install.bat": BAT.replace("\n", "\r\n")}
    return made
