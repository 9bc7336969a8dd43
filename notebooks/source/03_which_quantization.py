# %% [markdown]
# # Which quantization should I pick?
#
# *About 25 minutes. Everything is on this machine: no account, no download.*
#
# A model on the web comes in ten, twenty, sometimes thirty files: Q8_0, Q6_K, Q4_K_M, IQ3_XS … The names say little
# about what you want to know: *does it fit into my memory, and is it still good?* Here you measure both.
#
# **Afterwards you can**
#
# - compute a type's bits per weight from its layout, and a file's size from that;
# - say what RMS error, perplexity and KL divergence measure, and which of them to trust;
# - pick a type for a memory budget, and say what it costs.

# %% [markdown] tags=["instructor"]
# > **For the instructor.** Minutes: section 1 six, 2 four, 3 six, 4 six, 5 two, recap one. Section 1 works best on the
# > projector: let the room call out when they think the tale will break.
# >
# > *Talking point.* Ask who has downloaded a "Q4_K_M", and why that one. Most took the one that was recommended.

# %%
import llmlite as ll

# %% [markdown]
# ## 1. Half the bits, the same tale?
#
# We put every matrix of the model into one type and let it continue the same beginning, always with the likeliest
# token. It has 32 bits per weight at first, then 16, then fewer and fewer.

# %%
ll.lessons.predict(
    "We go down from 32 bits per weight. When does the tale change for the first time?",
    ["at 16", "at 8.5", "below 8.5"], "below 8.5",
    "Go down with the slider below. And at how many bits does it stop being a tale?",
)

# %%
ll.widgets.half_the_bits()

# %% [markdown] tags=["answer"]
# The marked word is the first that differs. Three things to notice:
#
# - For a long way down **nothing changes**. 32 bits, 16, 8.5: the weights shrink to less than a third, and the tale
#   stays, word for word.
# - When it changes, it becomes **another** tale, not at once a bad one. One word was a close call; it tipped, and
#   everything after it follows from the other word.
# - PyTorch's bars don't move. It unpacks weights to 16 or 32 bits, whatever the file had. (Orange bars are a sample
#   that comes with llmlite, taken on the machine named under it; compare them with each other only. Lesson 08
#   measures all of it on yours.)

# %% [markdown]
# So one tale does not measure anything: it can stay the same by luck or tip by bad luck. We need something finer.
#
# ## 2. What it saves
#
# *Time to here: 6 minutes.*
#
# The size is the easy half: bytes of a block times 8, divided by the weights in it.

# %%
q4_k = ll.quants.by_name("Q4_K")
for field, (dtype, *_) in q4_k.layout.fields.items():
    print(f"{field:7} {dtype.itemsize:4} bytes")
print(q4_k.block_size, "weights in a block")

# %% [markdown]
# **Exercise 1.** How many bits does one weight cost in Q4_K? And how many gigabytes (billions of bytes) do 8 billion
# weights take?

# %% tags=["exercise"]
# solution: add the bytes of all four fields, times 8, divided by the weights in a block
bits_per_weight = (2 + 2 + 12 + 128) * 8 / 256
gigabytes = 8e9 * bits_per_weight / 8 / 1e9
# end

# %% tags=["check"]
ll.lessons.check("bits per weight", bits_per_weight, q4_k.bits_per_weight, hint="144 bytes, 256 weights")
ll.lessons.check("gigabytes", gigabytes, 4.5, hint="weights times bits, divided by 8 bits in a byte")

# %% [markdown]
# ## 3. What it costs
#
# *Time to here: 10 minutes.*
#
# The nearest question is: how far are the new weights from the old? The **RMS error** is the answer: the root of the
# mean of the squared differences.
#
# **Exercise 2.** Write the simplest 4-bit quantizer there is, and see how it does. For each block of 32 weights:
#
# - the scale is the largest absolute value divided by 7;
# - each weight becomes the nearest whole number of scales (`np.rint`), so from -7 to 7;
# - back: the whole number times the scale.

# %%
import numpy as np

exact = ll.load("tales").gguf.tensors["blk.2.ffn_up.weight"]
weights = exact.dequantize().reshape(-1, 32)

# %% tags=["exercise"]
def absmax_4_bit(blocks):
    """Quantize blocks (n, 32) to 4 bits and return the weights that come back, of the same shape."""
    # solution: np.abs(blocks).max(axis=1, keepdims=True) / 7 is one scale per block
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 7
    return np.rint(blocks / scale) * scale
    # end


def rms(difference):
    """Return the root of the mean of squares."""
    # solution: square, np.mean, then the root with np.sqrt
    return float(np.sqrt(np.mean(difference**2)))
    # end

# %% tags=["check"]
tried = np.array([[7.0, 3.4, -1.6] + [0.0] * 29, [0.7, -0.06, 0.0] + [0.0] * 29])
right = np.array([[7.0, 3.0, -2.0] + [0.0] * 29, [0.7, -0.1, 0.0] + [0.0] * 29])
ll.lessons.check("4-bit quantizer", lambda: absmax_4_bit(tried), right, hint="one scale per row; rint; times the scale")
ll.lessons.check("RMS", lambda: rms(np.array([3.0, -4.0, 0.0, 0.0])), 2.5, hint="(9 + 16) / 4, and the root")

# %% [markdown]
# How does the simplest quantizer compare with the real ones? (Here it is computed once more, so that the picture
# is drawn even if you left the exercise open.)

# %%
scale = np.abs(weights).max(axis=1, keepdims=True) / 7
found = {"absmax": np.rint(weights / scale) * scale}
for name in ("Q4_0", "Q4_1", "Q4_K", "Q5_K"):
    found[name] = ll.QuantTensor.quantize(exact, name).dequantize().reshape(-1, 32)
size = np.mean(weights**2)
error = [float(np.sqrt(np.mean((values - weights) ** 2) / size)) for values in found.values()]
ll.plots.show(ll.plots.bars(
    list(found), {"error": error}, heading="Error of one matrix", y_label="RMS error over RMS weight"))

# %% [markdown]
# The real ones do a little better for the same bits: Q4_0 also uses level -8, Q4_K gives each group a minimum and
# searches for the scale that loses least. One bit more (Q5_K) does far more than any trick: it halves the step.
#
# But weights aren't what you read. Two measures look at the *predictions*:
#
# - **Perplexity**: how surprised is the model by a real text? 1 is "not at all"; lower is better.
# - **KL divergence**: how far are its predictions from those of the 32-bit model, at every place of the text?
#
# Both are in `llmlite/bench/quality.py`. llmlite ships a sweep: every type, on the bundled model, measured by
# `tools/sweep_types.py`. Don't take it on trust. The next cell measures one of its points again, on your machine.

# %%
live = ll.lessons.type_sweep.measure("Q4_K")
shipped = ll.lessons.type_sweep.shipped()
stored = shipped.find("Q4_K")
ll.plots.show(ll.plots.bars(
    ["measured here", "shipped"], {"Q4_K": [live.kl, stored.kl]},
    heading="One point of the sweep, measured again", y_label="KL divergence, nats", rtol=0.02))

# %% [markdown]
# Now perplexity has a surprise for you:

# %%
points = [p for p in shipped.points if p.scope == "tensors" and not p.imatrix]
float32 = shipped.find("F32")
better = [p.name for p in points if p.perplexity < float32.perplexity - 1e-4]
print("a lower perplexity than float32:", ", ".join(better))

# %% [markdown]
# Rounded weights that are *better* than exact ones? No. Rounding pushes every prediction a little, some up, some down.
# On one short text the sum can come out on the lucky side. KL divergence can't be lucky: every push counts. So for
# "how much did quantization change my model?" trust the KL divergence. Perplexity can compare different models, but
# only if they have the same tokenizer: it counts the surprise per token, and a model with longer tokens has fewer of
# them for the same text.
#
# Here is perplexity by type, computed on your machine. Set `MODEL` to another model and see how much *that* one loses. (It
# reads the same tales, and they may surprise it more. Its F16 is what its own file says, written with 16 bits: if the file
# was quantized before, that loss is in all bars.)

# %%
MODEL = "tales"  # or "smollm2" (`llmlite pull smollm2`), or the path of a GGUF file

# %%
types = ("F16", "Q8_0", "Q5_0", "Q4_0")  # blocks of 32: they fit the rows of nearly every model
found = [ll.lessons.real.perplexity(ll.lessons.real.in_type(MODEL, name)) for name in types]
ll.plots.show(ll.plots.bars(
    types, {"perplexity": found},
    heading="Perplexity by type", y_label="perplexity on the tales", rtol=0.02))

# %% [markdown] tags=["instructor"]
# > *Likely question:* "So is perplexity useless?" No: over a long text the luck averages out, and it needs no 32-bit
# > model to compare with. Ask how long the text was before you believe the third digit.

# %% [markdown]
# ## 4. All types at once
#
# *Time to here: 16 minutes.*
#
# Each point is the bundled model in one type; lower and further left is better. The dotted line joins those that no
# other beats in both: that is the **Pareto front**. Don't take a type that isn't on it.
#
# - *Budget* says how many bits per weight you can afford; the words below say what to take.
# - *mixes* are the files people really use: Q4_K_M keeps the delicate matrices in Q6_K (`llmlite/quantize/mixes.py`).
# - *imatrix*: before quantizing, somebody let the model read a text and noted which columns of each matrix are used
#   most (an **importance matrix**). The quantizer is then more careful there. Filled points have it. (See
#   `llmlite/bench/imatrix.py`.)

# %%
ll.lessons.predict(
    "An importance matrix says which columns matter most. Where does it help more?",
    ["at 2 bits", "at 6 bits"], "at 2 bits",
    "If bits are few, it matters where they are spent. Set the cost to KL divergence below "
    "and compare filled points with empty ones. Does an IQ type beat the K type at 3.5 bits?",
)

# %%
ll.widgets.type_picker()

# %% [markdown]
# Some points are far up. The ternary types (TQ1_0, TQ2_0) and Q1_0, Q2_0 are meant for models that were *trained* with
# such weights. Rounding a usual model to them leaves nothing.
#
# The IQ types choose whole groups of weights from a table of patterns. They win at the lowest sizes, take long to make,
# and are often slower to run on a CPU.
#
# **Exercise 3.** You have **2.6 megabytes** (millions of bytes) for the weights of this model, and no importance
# matrix. From `points` (each has `name`, `n_bytes`, `kl`), take the one that fits with the least KL divergence.

# %% tags=["exercise"]
# solution: keep the points whose n_bytes is at most 2.6e6; min(..., key=lambda p: p.kl); then its name
affordable = [p for p in points if p.n_bytes <= 2.6e6]
my_pick = min(affordable, key=lambda p: p.kl).name
# stub: my_pick = ...
# end

# %% tags=["check"]
fitting = {p.kl: p.name for p in points if p.n_bytes <= 2.6e6}
ll.lessons.check("my pick", my_pick, fitting[min(fitting)], hint="first keep those that fit, then take the least kl among them")

# %% [markdown]
# ## 5. A rule for Monday
#
# *Time to here: 23 minutes.*
#
# | you have | take | because |
# |---|---|---|
# | enough memory | Q8_0 | half of 16 bits, and next to nothing lost |
# | a normal laptop | Q4_K_M, or Q5_K_M if it fits | near the front, fast, everybody has them |
# | too little memory | IQ3 or Q3_K_M with imatrix | before you go below 3 bits, try a smaller model at 4 |
# | a doubt | `llmlite kl`, on *your* text | the front of this small model isn't the front of yours |
#
# All of this was measured on one small model. Don't carry its digits over to yours: the order of the types is much the
# same everywhere, how much each one loses is not. `llmlite kl` measures it on your model.

# %% [markdown]
# ## Recap
#
# - Bits per weight = bytes of a block × 8 / weights in it. They decide the memory, and most of the speed of large models.
# - RMS error looks at weights, perplexity at one text, KL divergence at every prediction. To compare a model with its
#   own quantized copy, use the last.
# - From 16 to about 5 bits little is lost. Below 4 every half bit costs more than the one before.
# - Take a type on the front; an importance matrix helps most when bits are few.
#
# **Words.** *bits per weight*: storage of one weight, scales included. *RMS error*: the typical distance between new
# and old weights. *perplexity*: how many tokens the model hesitates between, on a real text. *KL divergence*: how far
# predictions moved. *Pareto front*: those that no other beats in both respects. *mix*: a file whose matrices have
# different types. *importance matrix*: which columns of a matrix are used most.
