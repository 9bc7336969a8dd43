"""`python -m llmlite` is the command `llmlite`."""

import sys

from llmlite.cli import main

if __name__ == "__main__":
    sys.exit(main())
