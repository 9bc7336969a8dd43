# %% [markdown]
# # Is my machine ready?
#
# *About 10 minutes. Running every cell takes a few seconds, the first time about a minute.*
#
# These lessons run a real language model on your own machine, and measure it. This one first checks whether your
# machine has everything they need. If something is missing, it says what to do.
#
# To run a cell, click into it and press Shift and Enter together. Run them from the top, one after the other.
#
# **Afterwards you can**
#
# - say whether your machine has what the lessons need, and what to do if it hasn't;
# - do the exercises of these lessons: what to write, and how to check it;
# - use a checksum to tell whether a file is intact.

# %% [markdown] tags=["instructor"]
# > **For the instructor.** Minutes: section 1 three, section 2 two (more if kernels must be compiled: start it
# > before you talk), section 3 five with both exercises.
# >
# > Before the course: `llmlite doctor` on each machine says the same as the panel. `llmlite warmup --lessons` compiles
# > the kernels. Nothing in these lessons uses the network.
# >
# > *Likely question:* "My panel says optional for llama.cpp. Do I need it?" No. Lesson 08 leaves its bar out, or shows
# > one that was measured elsewhere, and says so.

# %%
import llmlite as ll

# %% [markdown]
# Was that red, with `No module named 'llmlite'`? Then this notebook runs in a different Python from the one that has
# llmlite. Close JupyterLab and open it with `llmlite lab`.
#
# This is where the lessons lead. A small language model continues a tale, three times. Its **weights**, the numbers that it
# has learned, take 16 bits each the first time, then about 8, then about 4. (F16, Q8_0 and Q4_K are names of ways to store
# them.) Nothing is computed here yet: llmlite ships these results. The first line names the machine they are from.

# %%
from llmlite.lessons import fewer_bits

shipped = fewer_bits.sample()
told = [shipped.llmlite(name) for name in ("F16", "Q8_0", "Q4_K")]
print(shipped.machine)
for row in told:
    print(f"{row.type:5} {row.weight_bytes / 1e6:.1f} MB: ...{row.tale}")

# %%
rows = [*told, *shipped.others]
ll.plots.show(ll.plots.bars(
    [f"{row.backend} {row.type}" if row.backend == "llmlite" else row.backend for row in rows],
    {"memory": [row.private_bytes / 1e6 for row in rows]},
    heading="Memory of the process that tells the tale", y_label="private memory, MB", rtol=0,
))

# %% [markdown]
# *Private memory* belongs to one program alone. PyTorch is the library that most such models are trained with; it can run
# them, too.
#
# A quarter of the bits, and still a tale; and little memory, compared with PyTorch. How can that be, and is the
# comparison fair? You will look into the file, into the arithmetic, and into the measurement. First: can your machine do
# it?
#
# ## 1. What is here, what is missing?
#
# First, only the problems.

# %%
findings = ll.bench.checks.examine(needed=("lessons",))
print("\n".join(ll.bench.checks.wrong(findings)) or "nothing is wrong")

# %% [markdown]
# Each problem has a line; after the arrow it says what to do. Do that, then choose *Restart Kernel* in the menu *Kernel*
# and begin again.
#
# Now everything, in a panel. It knows three words. **ready**: all is well. **optional**: the lessons work, but something
# could be added. **wrong**: something must be done.

# %%
ll.lessons.predict(
    "How many processor threads may this notebook use?",
    ["1 or 2", "3 to 8", "more than 8"], None,
    "The panel below says it, and how much memory is free.",
)

# %%
ll.widgets.machine_panel()

# %% [markdown]
# Press *Check again*. The line below the panel then says that it looked twice: your click went from the page to Python
# and back. All moving parts of these lessons work that way.
#
# Is there a list or an error about a widget, and no button? Then JupyterLab and this notebook run in two different
# Pythons. Close it and open it with `llmlite lab`. It may also be that the cell above hasn't been run yet.
#
# The checks are in `llmlite/bench/checks.py`; on the command line `llmlite doctor` prints the same.
#
# ## 2. Compile once, then a tale
#
# *Time to here: 3 minutes.*
#
# The work of a language model is arithmetic, a lot of it. llmlite does it in small functions that are compiled for your
# kind of processor: **kernels**. This happens once. Then they are kept in the cache folder. (On Linux, llmlite may bring
# them compiled.)

# %%
ll.lessons.predict(
    "You will run the next cell twice. How much shorter will the second time be, if kernels "
    "must be compiled?",
    ["a little shorter", "much shorter"], "much shorter",
    "Compiling takes about half a minute. Loading what was compiled takes less than a second.",
)

# %% tags=["nbval-ignore-output"]
import time

def show(done, total, name):
    print(f"\r{done} of {total} {name:<20}", end="")

begin = time.perf_counter()
ll.bench.checks.warm_up(progress=show)
print(f"\nready after {time.perf_counter() - begin:.1f} s")

# %% [markdown]
# Were both times short? Then the kernels were there already: they came with llmlite, or somebody has compiled them on this
# machine before.
#
# Now the model itself. It is small, it comes with llmlite, and it has learned to tell tales, nothing else.

# %% tags=["nbval-ignore-output"]
model = ll.load("tales")
print(model.generate("Once upon a time", max_tokens=60, temperature=0.7, seed=2))

# %% [markdown]
# If you can read a tale here, the engine works on your machine.
#
# ## 3. Is this the right file?
#
# *Time to here: 5 minutes.*
#
# Each lesson has exercises. In the first you replace the `...` by your answer. The cell below it checks what you wrote. It
# is folded, because its code knows the answer; run it like any other. ✓ is right, ✗ says what kind of wrong it is, and how to
# get a hint. An exercise that you leave open stops nothing.
#
# **Exercise 1.** The model is one file. How large is it, in megabytes? A megabyte is a million bytes.

# %%
path = ll.model_path("tales")
n_bytes = path.stat().st_size
n_bytes

# %% tags=["exercise"]
# solution: divide n_bytes by a million
megabytes = n_bytes / 1_000_000
# end

# %% tags=["check"]
ll.lessons.check("megabytes", megabytes, n_bytes / 1e6, hint="divide n_bytes by 1_000_000")

# %% [markdown]
# Files get damaged: a download breaks off, a disk fails. Nobody can compare millions of bytes by eye. So programs
# compute a **checksum**: a short number computed from all the bytes. llmlite comes with a list of the right ones, and
# *bundled data* in the panel compares them. Now you do it.
#
# **Exercise 2.** Write a function that returns the SHA-256 checksum of some bytes as text. `hashlib.sha256(data)` makes
# it; its method `hexdigest()` writes it as 64 digits.

# %%
import hashlib

lines = ll.data_path("SHA256SUMS").read_text().splitlines()
listed = dict(reversed(line.split()) for line in lines)
listed[path.name]

# %% tags=["exercise"]
def checksum(data):
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    # solution: two calls, one after the other: sha256(data), then hexdigest()
    return hashlib.sha256(data).hexdigest()
    # end

# %% tags=["check"]
ll.lessons.check("checksum of nothing", lambda: checksum(b"")[:8], "e3b0c442", hint="return hashlib.sha256(data).hexdigest()")
ll.lessons.check("checksum of the model", lambda: checksum(path.read_bytes()), listed[path.name], hint="the same for any bytes")

# %%
ll.lessons.predict(
    "We flip one single bit, in the middle of the file. How many of the 64 digits of its "
    "checksum will be others?",
    ["one", "a few", "half", "nearly all"], "nearly all",
    "Nearly all of them. The next cell does it.",
)

# %%
data = bytearray(path.read_bytes())
data[n_bytes // 2] ^= 1
after = hashlib.sha256(data).hexdigest()
differ = sum(a != b for a, b in zip(after, listed[path.name]))
print(differ, "of 64 digits differ")

# %% [markdown] tags=["answer"]
# Nearly all: after any change, however small, a good checksum looks like a new random number. A digit stays the same only
# by chance, one time in 16.

# %% [markdown]
# ## Recap
#
# - The panel says what your machine has: *ready*, *optional* or *wrong*, and what to do. `llmlite doctor` says it too.
# - Kernels are compiled once for your kind of processor, then kept.
# - An exercise: replace `...`, run the check below it.
# - A checksum tells a damaged file from an intact one (`ll.resources.sha256`, `ll.resources.damaged_data`).
#
# Next: what is inside that file, byte by byte.
#
# **Words.** *bit*: a 0 or a 1. *cache folder*: where llmlite keeps what it makes for later. *checksum*: a short number
# computed from all the bytes of a file. *kernel*: a small compiled function that does one kind of arithmetic; also, in
# JupyterLab, the Python that runs a notebook. *model*: the numbers that were learned, and how to use them. *widget*: a
# part of a notebook that you can click.
