"""Models by name: which ones can be pulled, which ones are here, and where.

Nothing here uses a network. `table` lists the models that are ordinary packages, `store` finds those that
were pulled, `folders` finds the files that other programs keep.
"""

from llmlite.catalog.folders import PREFIXES, REPOSITORY, Found, everything, find
from llmlite.catalog.store import pulled, pulled_path
from llmlite.catalog.table import PACKAGED, Packaged, Wheel
