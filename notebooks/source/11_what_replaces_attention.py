# %% [markdown]
# # What replaces attention?
#
# *About 25 minutes. Optional. Running every cell takes about fifteen seconds.*
#
# Attention keeps every key and every value of a text. Many of today's small models have layers that don't: they look
# back only a few steps, or keep a note of fixed size and write over it. That saves memory and time. But such layers forget,
# and you will measure what.
#
# **Afterwards you can**
#
# - say what four kinds of layers keep of a text, in bytes;
# - measure how far back a model can know something, and tell "faint" from "impossible";
# - say why models mix these layers with attention.

# %% [markdown] tags=["instructor"]
# > **For the instructor.** Minutes: section 1 seven with exercise 1, section 2 eight with exercise 2, section 3 six.
# >
# > *Talking point.* The weights are random. What you see is what a layer *can* keep, before any training.
# >
# > *Likely question:* "Which is best?" Models in use mix them: mostly cheap layers, and attention in every few.

# %%
import llmlite as ll

# %% [markdown]
# ## 1. Four kinds, and what they keep
#
# - **attention**: keys and values of all tokens;
# - **window**: of the latest 16 only (the real ones have 512 to 4,096);
# - **convolution**: the two latest inputs, weighed by learned numbers (LFM2);
# - **recurrent**: a matrix for each head, which fades a little with every token and takes in something new (Mamba 2).
#
# We make a tiny model of each, of two layers, with random weights.

# %%
import tempfile

from llmlite.lessons import mixers

place = tempfile.mkdtemp()
models = {kind: mixers.make(kind, place) for kind in mixers.KINDS}

# %%
ll.lessons.predict(
    "Which of the four needs more memory for 4,096 tokens than for 256?",
    ["attention", "window", "convolution", "recurrent"], "attention",
    "It keeps a key and a value of every token. The others keep a fixed number of things.",
)

# %%
depths = [16, 256, 1024, 4096]
size = mixers.memory_bytes
kept = {f"{n} tokens": [size(model, n) / 1024 for model in models.values()] for n in depths}
ll.plots.show(ll.plots.bars(models, kept, heading="What the layers keep", y_label="KiB", rtol=0))

# %% [markdown] tags=["answer"]
# Only attention grows. At 16 tokens the recurrent model keeps *more* than attention does: a state takes its full
# size from the first token on.

# %% [markdown]
# **Exercise 1.** From how many tokens on does attention keep more than the recurrent model's states? Attention keeps
# `per_token` bytes for each token.

# %%
per_token = mixers.memory_bytes(models["attention"], 1)
state = mixers.memory_bytes(models["recurrent"], 1)
print(per_token, "bytes for each token;", state, "bytes of states")

# %% tags=["exercise"]
# solution: the first whole number of tokens n with n * per_token > state
crossing = state // per_token + 1
# end

# %% tags=["check"]
ll.lessons.check("tokens", crossing, state // per_token + 1, hint="divide, then go up to the next whole number")

# %% [markdown]
# And time? Each further token after a long text, on this machine:

# %% tags=["nbval-ignore-output"]
times = {kind: mixers.decode_microseconds(model, depths) for kind, model in models.items()}
ll.plots.show(ll.plots.lines(
    depths, times, heading="Time of one further token",
    x_label="tokens before it", y_label="microseconds", rtol=10))

# %% [markdown]
# Attention has more to look at with every token. The others don't. (Models this small measure mostly the overhead of
# a step; the slope is what counts.)
#
# ## 2. How far back can it know?
#
# *Time to here: 7 minutes.*
#
# A test: change one token of a text, somewhere in the past. Do the scores at the end change? If they stay the same to
# the last bit, the model *cannot* know that token.

# %%
ll.lessons.predict(
    "Two layers have a window of 16. Can a token that is 20 back still have an influence?",
    ["yes", "no"], "yes",
    "What the first layer fetched from 15 back, the second can fetch from another 15 back.",
)

# %%
distances = [0, 1, 4, 5, 15, 16, 30, 31, 64, 128]
reach = {kind: mixers.influence(model, distances) for kind, model in models.items()}
columns = ["tokens back", *reach]
rows = []
for i, n in enumerate(distances):
    rows.append((n, *("knows" if reach[kind][i] else "can't know" for kind in reach)))
ll.plots.show(ll.plots.Table(
    heading="Can it know?", columns=columns, rows=rows, alt="For each distance, which models can know"))

# %% [markdown] tags=["answer"]
# - The **window** reaches 30 back, not 15: what the first layer fetched, the second fetches from there. At 31 it ends,
#   exactly.
# - The **convolution** reaches 4: two layers, two steps each. Exactly.
# - **Attention** and the **recurrent** model know everything, in principle.

# %% [markdown]
# "In principle" hides a difference. Attention looks up a token as it was. The state has been written over with every token
# since.
#
# **Exercise 2.** How far back does a model reach that has `n_layer` layers with a window of `window` tokens (the token
# itself included)?

# %% tags=["exercise"]
def farthest(window, n_layer):
    # solution: each layer reaches window - 1 back, and they add up
    return n_layer * (window - 1)
    # end

# %% tags=["check"]
ll.lessons.check("two layers of 16", lambda: farthest(16, 2), 30, hint="look at the table: 30 can be known, 31 can't")
ll.lessons.check("22 layers of 512", lambda: farthest(512, 22), 22 * 511, hint="layers add up")

# %% [markdown]
# ## 3. Look inside
#
# *Time to here: 15 minutes.*
#
# Left, a head of attention: with each token a row and a column more. In the middle the states of a **delta net**
# (Qwen 3.5), a field for each head; on the right the tail of its convolution, the three latest inputs. Move the slider:
# what grows, and what is only written over?
#
# A delta net is a recurrent layer that *corrects*: before it writes, it looks up what its matrix holds for this key. It
# adds only the difference from the new value. Mamba 2 adds without looking.

# %%
ll.lessons.predict(
    "The text grows from 30 tokens to 60. What becomes of the delta net's state?",
    ["it doubles", "it grows a little", "it stays as large"], "it stays as large",
    "Its numbers change; how many there are doesn't.",
)

# %%
delta = mixers.make("delta net", place)
ids = [(7 * i * i + 3 * i) % 512 for i in range(60)]
ll.widgets.mixer_memory(models["attention"], delta, ids)

# %% [markdown]
# And one model that has both kinds, as Qwen 3.5 has: a delta net in the first layer, attention in the second. Both read
# the same text.

# %%
hybrid = mixers.make("hybrid", place)
ll.widgets.mixer_memory(hybrid, hybrid, ids)

# %% [markdown]
# What each forgets:
#
# - **attention** nothing, and it pays for that with memory and time;
# - a **window** all that is out of reach, at once and completely;
# - a **convolution** all but the last few tokens;
# - a **recurrent state** a bit of everything, all the time. How fast differs by head: some fade within a few tokens, some
#   hold on for hundreds. It can't bring back one exact name out of a long text as attention can.
# - a **delta net** what it is told to correct: writing a key again replaces the old value instead of adding to it.
#
# So models mix: many cheap layers, and one with full attention in every few.
#
# ## Recap
#
# - Only full attention grows with the text, in memory and in time.
# - Windows and convolutions have an exact end; layers add up their reach.
# - A recurrent state has a fixed size, and what it holds fades.
#
# **Words.** *convolution*: a weighted sum of the latest inputs. *delta net*: a recurrent layer that writes the
# difference between what it holds for a key and the new value. *mixer*: the part of a layer that moves information
# between tokens. *recurrent layer*: keeps a state of fixed size and renews it with each token. *state*: what a
# recurrent layer keeps. *tail*: the latest inputs that a convolution still needs. *window*: how many of the latest
# tokens a layer sees.
