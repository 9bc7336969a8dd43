"""Write the mail that goes out the day before."""

from __future__ import annotations

PACKAGE = "llmlite-kit"  # on the package index, another project has the short name
OTHER = (
    f'Type the whole name, {PACKAGE}: "pip install llmlite" installs another project of that name, which\n'
    "   has nothing to do with ours."
)
LENGTHS = {"90-minutes": "90 minutes", "3-hours": "three hours", "day": "a day with a lunch break"}

TEXT = """\
Subject: Tomorrow: language models, bit by bit. Twenty minutes today, please

Hello,

tomorrow{when} we open a language model and look at its bits: {length}, in notebooks on your own laptop.
{where}You need to know Python, and what a matrix is. Nothing is sent anywhere: no account, no key, no cloud.

Please do this today, because thirty downloads at once are slow:

1. Have Python 3.11, 3.12 or 3.13 (python.org). Check it with:

       python --version

2. Make an environment and install the package (about 400 MB on the disk):

       python -m venv llmlite-env
       llmlite-env\\Scripts\\activate            on Windows
       . llmlite-env/bin/activate              on Linux and macOS
       pip install "{package}[lab]"

   {other}

3. Let it prepare itself. This takes a minute or two:

       llmlite warmup --lessons

4. Ask it how ready your laptop is, and send us the line that it prints:

       llmlite doctor --code

   The code holds your system, the versions of Python and llmlite, memory, free disk space, the number of
   threads, and which checks passed. It holds no name, no path and no address.

If a step fails, write to us, and bring the laptop all the same: we have everything on a USB stick, and two
people at one laptop learn as much as one. Bring the charger.

See you tomorrow.
"""


def letter(route: str = "3-hours", *, when: str = "", where: str = "") -> str:
    """Return the mail for a route.

    Args:
        route: a key of `schedule.ROUTES`.
        when: the time of day, such as "09:00"; "" leaves it out.
        where: the place; "" leaves it out.
    """
    return TEXT.format(
        when=f" at {when}" if when else "",
        where=f"Place: {where}.\n\n" if where else "",
        length=LENGTHS[route],
        package=PACKAGE,
        other=OTHER,
    )
