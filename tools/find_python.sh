#!/bin/sh
# Print the Python that can make llmlite's environment (3.11 or newer, with ensurepip); else say what to install.
# $PYTHON names one; without it the usual names are tried.
try='import sys; sys.exit(0 if sys.version_info >= (3, 11) else 3)'
old=""
for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
    command -v "$python" >/dev/null 2>&1 || continue
    if ! "$python" -c "$try" 2>/dev/null; then
        old="$old $python"
    elif "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "$python"
        exit 0
    else
        bare="$python"
    fi
done

if [ -n "${bare:-}" ]; then
    version=$("$bare" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "$bare ($version) lacks ensurepip, which makes environments. Install it:" >&2
    debian="python$version-venv"
else
    echo "llmlite needs Python 3.11 or newer${old:+ (too old:$old)}. Install it:" >&2
    debian="python3 python3-venv"
fi
cat >&2 <<END
    Debian, Ubuntu:  sudo apt install $debian
    Fedora:          sudo dnf install python3 python3-pip
    macOS:           brew install python
or name one that you have:  make PYTHON=/path/to/python3 demo
END
exit 2
