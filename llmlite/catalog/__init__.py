"""Models by name: those that can be pulled, and the files of those that are on this machine.

Nothing here uses a network. `table` lists the models that are ordinary packages, `store` finds those that
were pulled, and `folders` finds the files of other programs.
"""

from llmlite.catalog.folders import PREFIXES, REPOSITORY, Found, everything, find
from llmlite.catalog.store import pulled, pulled_path
from llmlite.catalog.table import PACKAGED, Packaged, Wheel
