# %% [markdown]
# # A weight in 4.5 bits: Q4_0, then Q4_K
#
# *About 35 minutes. Everything is on this machine: no account, no download.*
#
# A weight of a model is a number. After training it takes 32 or 16 bits. The file you download often spends **4.5**. What is
# half a bit, and what was lost? In this lesson you open such a file, down to single bits, and turn them back into weights
# with your own code.
#
# **Afterwards you can**
#
# - say what a *block*, a *scale* and a *level* are;
# - turn the 18 bytes of a Q4_0 block into 32 weights, exactly as every program that reads the format does;
# - unpack the eight small scales of a Q4_K block;
# - tell which of a block's bits matter, and which hardly do.

# %% [markdown] tags=["instructor"]
# > **For the instructor.** Minutes: section 1 five, 2 eight (exercise 1), 3 five, 4 seven, 5 eight (exercise 2),
# > recap two. If time is short, let exercise 2 be homework; never skip section 4.
# >
# > *Talking point.* Write one block on the board: 2 bytes, then 16. Let somebody from the room read a nibble.

# %%
import llmlite as ll

# %% [markdown]
# ## 1. Thirty-two weights and one scale
#
# We take one matrix of the bundled model twice: as it was trained, and quantized to the type `Q4_0`.

# %%
name = "blk.0.ffn_down.weight"
exact = ll.load("tales").gguf.tensors[name]
q4_0 = ll.load("tales:Q4_0").gguf.tensors[name]
print(exact.shape, exact.type.name, "and", q4_0.type.name)

# %% [markdown]
# A quantized matrix is cut into **blocks**. In Q4_0 a block is 32 neighbours of one row. Here is the first one: short
# green lines are the weights as they were, blue points are what the block stores.

# %%
block = q4_0.block(0)
original = exact.dequantize(slice(0, 1))[0, :32]
heading = "The first block of Q4_0"
ll.plots.show(ll.plots.blocks.weights(block.weights, original=original, heading=heading))

# %% [markdown]
# Look at the blue points: they lie on a few heights only, all the same distance apart. There are 16 possible
# heights, so that four bits say which one. The number of a height is called the **level**.
#
# The distance between two heights is the size of the **scale**. It is stored once per block. So:
#
#     weight = scale × level          levels go from -8 to 7

# %%
print("scale :", block.scales)
print("levels:", block.levels)

# %% [markdown]
# The scale may be negative, as here. Q4_0 gives the weight that is farthest from zero the level -8, and the sign of
# the scale makes it come out right.
#
# Most blue points are less than half a step away from their green line. That is the error of quantization. A larger
# step, a larger error: so a single large weight makes life harder for its 31 neighbours.
#
# ## 2. Eighteen bytes
#
# *Time to here: 5 minutes.*
#
# This is all that the file holds for these 32 weights:
#
#     byte   0  1     2  3  4  ...  17
#            d        qs
#
# - `d` is the scale, a 16-bit float (two bytes, the low one first);
# - `qs` are 16 bytes with two levels each. Four bits are called a **nibble**. The **low** nibble of byte *i* is
#   weight *i*, the **high** nibble is weight *i* + 16;
# - a nibble can't be negative (0 to 15), so 8 is subtracted.
#
# 18 bytes are 144 bits, for 32 weights: 144 / 32 = 4.5 bits per weight. There is your half a bit: it is the scale.

# %%
block

# %% [markdown]
# **Exercise 1.** Write the function that turns the bytes of a Q4_0 block into its 32 weights. You get a NumPy array
# of 18 bytes. `raw[:2].view("<f2")[0]` reads the two bytes as a 16-bit float.

# %%
import numpy as np


# %% tags=["exercise"]
def dequantize_q4_0(raw):
    """Turn 18 bytes (uint8) into 32 weights (float32)."""
    scale = np.float32(raw[:2].view("<f2")[0])
    # solution: low nibbles with & 15, high nibbles with >> 4; both minus 8; first all low ones, then all high ones
    levels = np.concatenate([raw[2:] & 15, raw[2:] >> 4]).astype(np.int8) - 8
    return scale * levels.astype(np.float32)
    # end

# %% [markdown]
# The check wants the *exact* bits, not "about right": for the format there is one correct answer. It tries your
# function on three blocks.

# %% tags=["check"]
wanted = np.stack([q4_0.block(i).weights for i in (0, 1, 999)])
ll.lessons.check(
    "dequantize Q4_0",
    lambda: np.stack([dequantize_q4_0(q4_0.block(i).bytes) for i in (0, 1, 999)]),
    wanted, rtol=0, hint="weight i is the low nibble of byte i, weight i + 16 its high nibble; minus 8; times d",
)

# %% [markdown]
# In the package, `llmlite/quants/legacy.py` does the same for many blocks at once, and `tensor.dequantize()` for the
# whole matrix. The tests hold it, bit for bit, to the reader that the makers of the format publish.
#
# ## 3. Every bit in your hand
#
# *Time to here: 13 minutes.*
#
# Now flip bits. Choose a field, press a bit: red shows where the weights went. (By keyboard: Tab moves on, the space
# bar presses, arrows choose.)

# %%
ll.lessons.predict(
    "One bit of a nibble in qs is flipped. How many of the 32 weights move?",
    ["one", "two", "all that are not 0"], "one",
    "Try it below, then flip one bit of `d`: how many move now?",
)

# %%
ll.widgets.block_explorer(q4_0, original=exact)

# %% [markdown] tags=["answer"]
# A nibble's bit moves one weight, by one, two, four or eight steps. A bit of the scale moves every weight of the
# block (only a level of 0 stays where it is).

# %% [markdown]
# A 16-bit float has three parts, marked `s`, `e` and `f` above the bits: one **sign**, five bits of **exponent**, ten
# of **fraction**. The exponent counts in powers of two. Its highest bit is worth 2 to the power of 16: all 32 weights
# get 65,536 times larger. Flip it and look at the scale of the figure.
#
# ## 4. Which bit matters?
#
# *Time to here: 18 minutes.*
#
# A block is 18 bytes out of millions. Can one bit of them change what the *model* says? We flip it in memory, let the
# model write, and compare its predictions with those from before.
#
# A model reads and writes **tokens**: words, or parts of words. To choose the next one, it gives every token that it knows a
# score. These scores are its **logits**. They are turned into chances (the lesson "Choosing the next token" shows how).
#
# To compare two such lists of chances, before and after, we use one number: how surprised is somebody who expects the new
# chances while the old ones are true? This is the **KL divergence**, in *nats*: 0 means "the same predictions", 0.01 is hard
# to notice, and at 5 the new predictions have little to do with the old.

# %%
ll.lessons.predict(
    "The lowest bit of one nibble is flipped. What is the KL divergence?",
    ["hardly more than 0", "about 0.01", "about 5"], "hardly more than 0",
    "One weight moves by one step, among four million.",
)

# %%
ll.lessons.predict(
    "The highest exponent bit of one scale is flipped. What is the KL divergence?",
    ["hardly more than 0", "about 0.01", "5 or more"], "5 or more",
    "32 weights get 65,536 times larger. See what becomes of the tale.",
)

# %%
ll.widgets.which_bit(ll.load("tales:Q4_0"))

# %% [markdown]
# The same number of bits is changed each time: one. Choose the others too, then another block. (Some bits may change a
# name in the tale: if two names are nearly equally likely, the smallest push decides.)
#
# Now all 16 bits of the scale and the 8 bits of one byte of levels, one after the other. The axis is logarithmic: each
# step to the right is a hundred times worse.

# %%
from llmlite.lessons.flip import FlipLab, role

lab = FlipLab(ll.load("tales:Q4_0"))
bits = [*range(15, -1, -1), *range(23, 15, -1)]
fields = [block.fields["d"] if bit < 16 else block.fields["qs"] for bit in bits]
names = [f"{field.name}: {role(block.type, field, bit)}" for field, bit in zip(fields, bits)]
kl = [lab.kl(name, 0, bit) for bit in bits]
ll.plots.show(ll.plots.blocks.damage(names, kl))

# %% [markdown] tags=["answer"]
# One bar stands alone. A model is a sum of very many small numbers, and it forgives a small error in any *one* of them.
# It doesn't forgive a number that is 65,536 times too large: that drowns everything it is added to.

# %% [markdown]
# This says nothing yet about rounding *all* weights at once, as quantization does. Millions of small errors could add
# up. Whether they do has to be measured with all of them in place: that is lesson 03.
#
# It does say which bits matter most: those of the scales. A level gets four bits, a scale sixteen.
#
# (The code of this experiment is short: `llmlite/lessons/flip.py`. It copies the one matrix and leaves the file alone.)

# %% [markdown] tags=["instructor"]
# > *Likely question:* "Why is the second highest exponent bit so much less bad?" Look at which way it flips. It is 1
# > in a small scale such as 0.03, and flipping it makes the scale 256 times *smaller*. The block goes to nearly zero:
# > 32 weights missing, which is little. Only flips from 0 to 1 in the exponent make weights large.
# >
# > *Talking point.* Memory errors and attacks: one flipped bit in the right place is enough. Servers have ECC.

# %% [markdown]
# ## 5. Better for the same price: Q4_K
#
# *Time to here: 25 minutes.*
#
# Q4_0 is one of the oldest types. Its younger relative **Q4_K** also costs 4.5 bits per weight, and loses less. How?

# %%
q4_k = ll.QuantTensor.quantize(exact, "Q4_K", name)
errors = [float(np.sqrt(np.mean((t.dequantize() - exact.dequantize()) ** 2))) for t in (q4_0, q4_k)]
ll.plots.show(ll.plots.bars(
    ["Q4_0", "Q4_K"], {"RMS error": errors},
    heading="Both cost 4.5 bits", y_label="RMS error of a weight"))

# %% [markdown]
# Its block is larger: 256 weights, in eight groups of 32. Each group has a scale of its own **and a minimum**, so its
# 16 heights needn't lie around zero: they sit where the group's weights are.
#
#     weight = d × scale[group] × level  -  dmin × minimum[group]
#
# Levels go from 0 to 15.
#
# Sixteen more floats would cost too much. So scales and minimums are quantized themselves: six bits each, against one
# float `d` and one float `dmin` for the whole block. A scale for the scales.

# %%
for field in q4_k.block(0).fields.values():
    print(f"{field.name:7} from byte {field.bit_offset // 8:3}: {field.n_bits:4} bits")

# %%
ll.lessons.predict(
    "One bit of a byte in scales is flipped, in the first four bytes. How many of the 256 "
    "weights can move?",
    ["1", "32", "256"], "32",
    "A scale belongs to one group of 32 weights, or its two upper bits to another one. And "
    "one bit of `dmin`? Try both below.",
)

# %%
ll.widgets.block_explorer(q4_k, original=exact)

# %% [markdown] tags=["answer"]
# A bit of `scales` moves one group, 32 weights at most. A bit of `dmin` moves every group that has a minimum.

# %% [markdown]
# Eight scales and eight minimums of six bits are 96 bits: 12 bytes. But six bits don't fill a byte, so the last four
# pairs are spread over what is left. Each letter here is one bit, the highest to the left:
#
#     bytes 0 to 3     hhSSSSSS    the scale of groups 0 to 3; hh: two upper bits of the scale of groups 4 to 7
#     bytes 4 to 7     hhMMMMMM    the minimum of groups 0 to 3; hh: two upper bits of the minimum of groups 4 to 7
#     bytes 8 to 11    mmmmssss    four lower bits of minimum and scale of groups 4 to 7
#
# **Exercise 2.** Unpack the eight scales. (The minimums go the same way.) `a[0:4] & 63` keeps six bits; `>> 6` moves
# the upper two down; `<< 4` makes room for four bits below.

# %% tags=["exercise"]
def unpack_scales(a):
    """Turn the 12 bytes of `scales` (uint8) into the 8 scales, each 0 to 63."""
    first = a[0:4] & 63
    # solution: the low nibble of bytes 8 to 11, and above it the two upper bits of bytes 0 to 3
    second = (a[8:12] & 15) | ((a[0:4] >> 6) << 4)
    # stub: second = ...
    # end
    return np.concatenate([first, second])

# %% tags=["check"]
fields = q4_k.block(0).fields
unit = np.float32(fields["d"].value)
ll.lessons.check(
    "scales of Q4_K", lambda: unit * unpack_scales(fields["scales"].value), q4_k.block(0).scales,
    rtol=0, hint="groups 4 to 7: lower four bits from bytes 8 to 11, upper two from bytes 0 to 3",
)

# %% [markdown]
# The check multiplied your whole numbers by `d` and compared with `block.scales`, which `llmlite/quants/k.py` unpacks.
#
# There are more than twenty such types. All of them are blocks with scales, and you can open each one here: try
# `ll.widgets.block_explorer(ll.QuantTensor.quantize(exact, "Q6_K", name))`, or `"MXFP4"`, or `"IQ4_NL"`.
#
# *Time to here: 33 minutes.*

# %% [markdown] tags=["instructor"]
# > *Likely question:* "Why not simply store the scales as bytes?" Sixteen bytes instead of twelve: 4 × 8 / 256 = 0.125
# > bits per weight more. Over 8 billion weights that is 125 MB.

# %% [markdown]
# ## Recap
#
# - A quantized matrix is cut into blocks; a block is a scale and many small levels: weight = scale × level.
# - Q4_0: 18 bytes for 32 weights. The half bit is the scale.
# - A level's bit moves one weight a little, and the model doesn't care. A scale's highest exponent bit ends the tale.
# - Q4_K gives each group of 32 its own scale and minimum, and pays for them by quantizing them too.
#
# Next: which of all these types should *you* take? That is lesson 03.
#
# **Words.** *block*: neighbours in a row that share a scale. *level*: the small whole number stored for one weight.
# *scale*: what a level is multiplied by. *minimum*: what is then subtracted, in types that have one. *nibble*: four
# bits, half a byte. *exponent, fraction*: the two parts of a float, how large and which digits. *dequantize*: turn
# bits back into weights. *RMS*: the root of the mean of squares, an average size. *KL divergence*: how far one set of
# predictions is from another. *nat*: its unit.
