"""Run the command `llmlite`: `python -m llmlite`."""

import sys

from llmlite.cli import main

if __name__ == "__main__":
    sys.exit(main())
