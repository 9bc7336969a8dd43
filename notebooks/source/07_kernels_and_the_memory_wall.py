# %% [markdown]
# # From NumPy to the memory wall: kernels
#
# *About 30 minutes. Running every cell takes about ten seconds.*
#
# A *kernel* is the small piece of code that does one operation, over and over, as fast as the machine can. In a language
# model nearly all the work is one operation: a matrix of weights times a vector. In this lesson you write it, climb
# from NumPy to the code that really runs, and find out where the climb ends: at the memory.
#
# **Afterwards you can**
#
# - multiply quantized weights without turning them into floats first, and say which part of it is exact;
# - say what makes one rung of the ladder faster than the one below;
# - compute the best possible speed of writing from two numbers: bytes and bandwidth;
# - place an operation under the roofline, and say what bounds it.

# %% [markdown] tags=["instructor"]
# > **For the instructor.** Minutes: section 1 three, section 2 with exercise 1 eight, section 3 six, section 4 with
# > exercise 2 six, section 5 with exercise 3 six, recap one.
# >
# > *Talking point.* Let the room guess the factor between the first rung and the last before anybody moves the slider.
# > Write the guesses down. Most are too low by ten.
# >
# > Shipped figures come from a small shared server. They carry its noise: the points show it. Laptops give other
# > figures and the same shape.

# %%
import llmlite as ll

# %% [markdown]
# ## 1. Where does the time go?
#
# To write one token, the engine takes one *step*: the last token goes through all layers. llmlite writes the operations of
# a step down once, as a *plan*, which a team of threads runs. A plan can be timed operation by operation.

# %%
MODEL = "tales"  # or "smollm2" (llmlite pull smollm2), or a path; numbers in the text are of "tales"

# %%
ll.lessons.predict(
    "A step has norms, rotations, attention, additions, and matrix products. How much of its "
    "time do the matrix products take?",
    ["half", "three quarters", "nearly all"], None,
    "The next cell measures it on your machine.",
)

# %% tags=["nbval-ignore-output"]
model = ll.lessons.real.in_type(MODEL, "Q8_0", executor="planned")
rows = model.executor.profile()
products = sum(row["nanoseconds"] for row in rows if row["operations"])
share = products / sum(row["nanoseconds"] for row in rows)
print(f"matrix products: {share:.0%} of the time of a step")

# %% [markdown]
# And the bundled model is tiny. In a large one the share is larger still. So this is the operation to look at.
#
# ## 2. One product, in integers
#
# *Time to here: 3 minutes.*
#
# A Q8_0 block holds 32 weights: 32 signed bytes (the *levels*) and one scale. A weight is its scale times its level.
# Here is the first row of a real matrix.

# %%
w = model.gguf.tensors["blk.0.ffn_up.weight"]
row = w.blocks[: w.shape[1] // 32]                   # the blocks of row 0, 34 bytes each
parts = w.type.parts(row)
parts.levels.shape, parts.levels.dtype, parts.scales.shape

# %% [markdown]
# The vector that is multiplied, the *activations*, is turned into such blocks too. That happens once, however many rows
# then read it.

# %%
import numpy as np

x = np.random.default_rng(7).standard_normal((1, w.shape[1])).astype(np.float32)
activations = ll.QuantTensor.quantize(x, "Q8_0")
x_parts = activations.type.parts(activations.blocks)
x_parts.levels.shape, x_parts.scales.shape

# %% [markdown]
# Within one pair of blocks all scales are the same. So they can wait:
#
# `sum of (s·w[j]) · (t·x[j])  =  s·t · (sum of w[j]·x[j])`
#
# What is left in the sum are products of whole numbers. A sum of whole numbers has no rounding: it is **exact**. And
# processors multiply many numbers at a time, as many as fit into a register: 64 bytes, but only 16 floats. (On many laptops
# a register holds half as much.)
#
# **Exercise 1.** Compute the sum of each block as integers, then the dot product. Mind the type: a sum of 32 products of
# bytes doesn't fit into a byte.

# %% tags=["exercise"]
def block_sums(w_levels, x_levels):
    """Return for each block the sum of its products, an integer; both are int8 (blocks, 32)."""
    # solution: make one of them int32 before you multiply, then sum along the last axis
    return (w_levels.astype(np.int32) * x_levels).sum(axis=1)
    # end


def dot(w_levels, w_scales, x_levels, x_scales):
    """Return the dot product of two rows of blocks; scales are float32 (blocks, 1)."""
    # solution: each block's sum times its two scales (scales[:, 0]), all added
    return (block_sums(w_levels, x_levels) * w_scales[:, 0] * x_scales[:, 0]).sum()
    # end

# %% tags=["check"]
levels = parts.levels, x_parts.levels
exact = np.einsum("bj,bj->b", *(level.astype(int) for level in levels))
ll.lessons.check("integer sums", lambda: block_sums(*levels), exact, rtol=0, hint="int8 overflows: astype(np.int32) first")
floats = w.dequantize(slice(1))[0].astype(float) @ activations.dequantize()[0]
four = parts.levels, parts.scales, x_parts.levels, x_parts.scales
ll.lessons.check("dot product", lambda: dot(*four), floats, rtol=1e-6, hint="sum * scale of w * scale of x, all blocks added")

# %% [markdown]
# No weight was turned into a float. That matters twice: there is less arithmetic, and the weights stay small all the
# way from memory to the multiplier.
#
# Exact is only the sum inside a block. Rounding happened twice before: when the weights became Q8_0, and when the
# activations did. Here are both, against the product of floats that were never rounded.

# %%
original = ll.load(MODEL).gguf.tensors["blk.0.ffn_up.weight"].dequantize(slice(0, 64)).astype(float)
rounded, rounded_x = w.dequantize(slice(0, 64)).astype(float), activations.dequantize()[0]
true = original @ x[0]
products = {"weights": rounded @ x[0], "activations": original @ rounded_x, "both": rounded @ rounded_x}
for name, product in products.items():
    error = np.sqrt(np.mean((product - true) ** 2) / np.mean(true**2))
    print(f"{name:12} rounded: error {error:.4f} of the size")

# %% [markdown]
# The two errors are alike in size. A library that keeps its activations as floats has only the first of them.
#
# ## 3. The ladder
#
# *Time to here: 11 minutes.*
#
# Four ways to compute one large matrix times one vector:
#
# 1. **NumPy**: turn the weights into floats, a slab at a time, and let a library multiply;
# 2. **scalar**: a compiled loop, one weight after the other;
# 3. **SIMD** (*single instruction, multiple data*): one instruction works on up to 64 weights;
# 4. **threads**: the same on all cores.
#
# First the answers. A fast kernel that computes something else is worth nothing.

# %%
from llmlite.bench import ladder, roofline

small = ladder.measure_ladder(("Q4_0", "Q8_0"), n_rows=1024, repeats=1, roof=False)
for step in small.steps:
    print(step.type, step.rung, "same answer:", step.max_error < 1e-5)

# %% [markdown]
# This is the scalar kernel for one row of Q8_0, from `llmlite/engine/kernels/scalar.py`: `p` is the address of
# the row's blocks, `x` that of the activations.

# %%
print(ll.lessons.kernels.source("scalar", "row_q8_0"))

# %%
ll.lessons.predict(
    "All four do the same multiplications. On the machine of the shipped figures: how many "
    "times faster is the last than the first?",
    ll.lessons.kernels.CHOICES, lambda: ll.lessons.kernels.climbed(ladder.Ladder.sample()),
    "Which single step gains the most? Climb below, and see.",
)

# %% [markdown]
# Climb with the slider. The points are single runs, the bar is the fastest of them. The dashed line is the
# speed of that machine's memory when nothing is computed at all. (By keyboard: Tab moves on, the arrows move the slider.)

# %%
ll.widgets.kernel_ladder()

# %% [markdown]
# These figures come with the lesson, from a machine that others used too. Here is one rung on yours:

# %% tags=["nbval-ignore-output"]
mine = ladder.measure_ladder(("Q4_0",), ("simd",), n_rows=16384, repeats=5, roof=False).steps[0]
speed = mine.bytes / mine.best_ns
print(f"SIMD, one thread: {mine.best_ns / 1e6:.2f} ms, {speed:.1f} GB of weights per second")

# %% [markdown] tags=["answer"]
# NumPy has to write the floats to memory before it can multiply them, 32 bits for a weight that had 4. The compiled loop
# leaves that out. SIMD does up to 64 weights where the loop does one: of all steps, this one gains the most.
#
# The last step can't gain more than the number of cores, two on that machine. And there is an end in sight: choose Q8_0,
# and most runs are near the dashed line. Then more cores wouldn't help. (Are some points beyond the line? Then it was
# measured while somebody else used that machine's memory.)

# %% [markdown]
# ## 4. The wall
#
# *Time to here: 17 minutes.*
#
# To write one token a model reads **every weight once**. There is no way around it: the next token needs all layers.
# So the memory sets a limit that no kernel can pass:
#
# `tokens per second  ≤  bytes per second from memory / bytes of weights`
#
# **Exercise 2.** (a) How many bytes of weights does one step of `model` read? Its tensors know: `tensor.n_bytes`, for each
# tensor of `model.gguf.tensors.values()`. (b) A model has 1.24 billion weights in Q4_0, 4.5 bits each. Memory gives
# 40 GB per second. What is the best possible speed in tokens per second?

# %% tags=["exercise"]
# solution: (a) add up n_bytes; (b) bytes = weights * bits / 8, speed = 40e9 / bytes
step_bytes = sum(tensor.n_bytes for tensor in model.gguf.tensors.values())
best_speed = 40e9 / (1.24e9 * 4.5 / 8)
# end

# %% tags=["check"]
expected = ll.lessons.kernels.weight_bytes(model)
ll.lessons.check("bytes per step", step_bytes, expected, hint="sum(tensor.n_bytes for tensor in ...)")
ll.lessons.check("best possible speed", best_speed, 57.347670, hint="8 bits are a byte; 40e9 bytes per second")

# %% [markdown]
# Half the bits per weight: half the bytes, and the limit doubles. That is why quantized models *write* faster. Their
# arithmetic isn't simpler; there is less to fetch.
#
# How close do kernels come? Here is a step of a model of that size, every operation timed, on the machine of the ladder:

# %%
sample = roofline.Roofline.sample()
step = sample.points["decode"]
wall = sample.roof.bytes_per_second / sum(point.bytes for point in step if point.type)
speed = 1e9 / sum(point.nanoseconds for point in step)
print(f"{sample.model}: the wall is at {wall:.0f} tokens per second, the kernels reach {speed:.0f}")

# %% [markdown]
# No kernel gets all of it: unpacking and the operations in between take time too. But the order of magnitude is set by
# the memory, before a line of code is written.
#
# `tales` is so small that it stays in the processor's *caches*, small and fast memories on the chip. It never meets this
# wall.
#
# ## 5. The roofline
#
# *Time to here: 23 minutes.*
#
# Reading a prompt is different. All its tokens are known, so each weight, once fetched, is used for **all** of them.
# So what counts is how many operations are done for each byte fetched. This is called the **intensity**.
#
# **Exercise 3.** A matrix with weights of b bits is multiplied by the vectors of n tokens. Each weight takes part in one
# multiplication and one addition per token. How many operations per byte of weights is that?

# %% tags=["exercise"]
def intensity(n_tokens, bits):
    """Return operations per byte of weights."""
    # solution: 2 operations per weight and token; a weight is bits / 8 bytes
    return 2 * n_tokens / (bits / 8)
    # end

# %% tags=["check"]
ll.lessons.check("one token, Q4_0", lambda: intensity(1, 4.5), 3.5555556, hint="2 operations, 4.5 / 8 bytes")
ll.lessons.check("256 tokens, Q4_0", lambda: intensity(256, 4.5), 910.22222, hint="2 operations for every token")
ll.lessons.check("one token, F16", lambda: intensity(1, 16), 1.0, hint="16 bits are 2 bytes")

# %% [markdown]
# The figure below has intensity to the right and speed upwards. An operation can't be faster than memory allows (the
# slope) nor than the arithmetic of the processor (the flat part): the **roof**. Where the two meet, memory and arithmetic
# are equally fast.

# %%
ll.lessons.predict(
    "Writing has about 4 operations per byte, reading 256 tokens about 900. Would a processor "
    "with twice the arithmetic write any faster?",
    ["yes", "no"], "no",
    "Writing lies under the slope: memory bounds it. Reading lies under the flat part.",
)

# %% [markdown]
# The first model comes with the lesson. The others are `tales`, measured on your machine just now. Every point is one
# operation of the plan. Choose a step, an operation, and which one (there is one per layer); the words below say what it
# reads, what it does and what bounds it.

# %% tags=["nbval-ignore-output"]
here = []
for name in ("Q4_0", "F16"):
    tales = ll.load(f"tales:{name}", executor="planned")
    here.append(roofline.measure_roofline(tales, f"tales {name}, here", prefill=(256,)))
ll.widgets.roofline(roofline.Roofline.sample(), *here)

# %% [markdown] tags=["answer"]
# When writing, the operations are under the slope: **bound by memory**. Twice the arithmetic would change nothing. When
# reading a prompt they are far to the right, **bound by arithmetic**; there the integer products pay off.

# %% [markdown]
# A few points stay on the left even then. In the last layer only the last token goes on: nobody needs a guess for what
# follows the others. So its matrices meet one vector, not 256.
#
# The triangles are the operations without weights: norms, additions, attention. They do little per byte, and they are
# short.
#
# Are there points *above* the slope? The roof is the speed of main memory. Weights that stay in a cache come faster:
# those of `tales` all do. And a roof that was measured while another program was busy is too low. F16 has a roof of its
# own, lower on the right: floats are multiplied sixteen at a time, bytes sixty-four.
#
# The same as a table: for each operation of writing, how many operations per byte, and what bounds it.

# %%
matrices = [point for point in sample.points["decode"] if point.type]
for point in matrices[:7]:
    bound = ll.lessons.kernels.bound(point, sample.roof)
    print(f"{point.label:28} {point.type} {point.intensity:5.2f} operations per byte, bound by {bound}")

# %% [markdown] tags=["instructor"]
# > *Likely question:* "Why not read several texts at once when writing?" That is what servers do: with 16 users a
# > weight that was fetched serves 16 tokens, the point moves right by 16. One user alone can't have that.
# >
# > *Likely question:* "And a GPU?" The same figure with other numbers: memory some 20 to 80 times faster, arithmetic
# > faster still. Writing for one user is bound by memory there too.

# %% [markdown]
# ## Recap
#
# - Nearly all the work is **matrix times vector**. The scales can wait; inside a block everything is **whole numbers, and
#   exact**. Rounding the weights and the activations to such numbers is not.
# - The **ladder**: don't write floats back; many weights per instruction; all cores. Same answer on every rung.
# - The **wall**: writing a token reads every weight once. Speed ≤ bandwidth / bytes.
# - **Intensity** decides: little work per byte is bound by memory (writing), much by arithmetic (reading a prompt).
#
# The kernels are in `llmlite/engine/kernels/`; `quantized.py` has the shapes that all types share. Your machine's figures:
# `ll.bench.roofline.measure_roof()`.
#
# **Words.** *activations*: the numbers that flow through the model, in contrast to its weights. *bandwidth*: bytes per
# second from memory. *cache*: small, fast memory on the processor. *intensity*: operations per byte. *kernel*: the code
# of one operation. *levels*: the whole numbers that weights are stored as. *plan*: the list of operations of a step.
# *roofline*: the highest speed at each intensity. *scalar*: one number at a time. *SIMD*: one instruction, many
# numbers.
