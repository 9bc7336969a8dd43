# %% [markdown]
# # Choosing the next token
#
# *About 20 minutes. Running every cell takes a few seconds.*
#
# A language model doesn't write. It reads a text and gives a score to every token that could come next. Something has to
# choose one: the *sampler*, a short chain of simple steps. You will write most of them yourself.
#
# **Afterwards you can**
#
# - turn scores into probabilities, and say what temperature does to them;
# - cut off the unlikely tokens with top-k and top-p, and say when the two differ;
# - draw a token so that the same seed gives the same text again;
# - look into the model layer by layer and see where a choice is made.

# %% [markdown] tags=["instructor"]
# > **For the instructor.** Minutes: sections 1 and 2 three, section 3 with exercise 1 five, section 4 with exercise 2
# > and the explorer seven, section 5 two, section 6 three.
# >
# > *Talking point.* Read the greedy tale of section 2 aloud, with the names. It is the best argument for drawing that
# > we know, and it is not "creativity": each choice was the best one, and the whole is bad.

# %%
import llmlite as ll

# %% [markdown]
# ## 1. A score for every token
#
# We use float32 throughout, so that your numbers are the same as ours.

# %%
MODEL = "tales"  # or "smollm2" (llmlite pull smollm2), or a path; numbers in the text are of "tales"

# %%
model = ll.load(MODEL, executor="eager", kv_dtype="f32")
writer = model if MODEL == "tales" else ll.load(MODEL)  # NumPy would be slow for a larger one
ids = model.tokenizer.encode("Once upon a time there was a")
logits = model.logits(ids, last_only=True)[0]
len(logits), model.config.n_vocab

# %% [markdown]
# One score per token of the vocabulary. These scores are called **logits**. Here are the eight highest.

# %%
import numpy as np

top = np.argsort(-logits)[:8]
names = [model.tokenizer.decode([token]) for token in top]
ll.plots.show(ll.plots.bars(
    names, {"score": logits[top]},
    heading="Once upon a time there was a …", y_label="logit", rtol=1e-3,
))

# %% [markdown]
# The bundled model names places: it has learned what kind of word belongs there. One is ahead of the others, then come
# many that are almost equally good.
#
# ## 2. Always the best?
#
# *Time to here: 2 minutes.*
#
# The simplest rule: take the highest score, add that token to the text, and ask again. This is called **greedy**. It is
# what `temperature=0` does.

# %%
ll.lessons.predict(
    "If every single choice is the best one, will the whole tale be good?",
    ["yes", "no"], "no",
    "Read the tale below, and mind the names.",
)

# %%
print("Once upon a time" + writer.generate("Once upon a time", max_tokens=60, temperature=0))

# %% [markdown] tags=["answer"]
# Look at the names. Each time a name is due, the bundled model gives the same one the highest score. So everybody has the
# same name, and the friend of the hero is the hero. (A larger model repeats itself in other ways.)

# %% [markdown]
# A tale that is good is rarely the one that is likeliest word by word. So we don't take the best: we **draw**, and
# give better tokens a better chance.
#
# ## 3. From scores to chances
#
# *Time to here: 4 minutes.*
#
# Chances must be positive and sum to 1. The usual way is called **softmax**: take `exp` of each score, then divide by
# the sum of all of them.
#
# Before that we may divide all scores by a number, the **temperature** t:
#
# `p[i] = exp(logit[i] / t) / (sum over j of exp(logit[j] / t))`

# %%
ll.lessons.predict(
    "Dividing by 0.5 doubles the distance between any two scores, dividing by 2 halves it. "
    "Which of the two makes the leader stronger?",
    ["dividing by 0.5", "dividing by 2"], "dividing by 0.5",
    "The figure below has three temperatures.",
)

# %%
from llmlite.lessons import choosing
from llmlite.sampling import Temperature

chances = {}
for t in (0.5, 1.0, 2.0):
    sampler = ll.Sampler(chain=[Temperature(t=t)])
    chances[f"temperature {t}"] = 100 * choosing.probabilities(sampler, logits)[top]

# %%
ll.plots.show(ll.plots.bars(
    names, chances, heading="Cold is sharp, hot is flat", y_label="probability, %", rtol=1e-3,
))

# %% [markdown] tags=["answer"]
# A low temperature makes the leader stronger. At 0 nothing else is left: that is greedy. A high temperature makes all
# tokens alike, the bad ones too.

# %% [markdown]
# **Exercise 1.** Write softmax with temperature. One trap: `exp` of a large number overflows. Subtract the largest
# score first: it cancels out in the division.

# %% tags=["exercise"]
def softmax(logits, temperature):
    """Return the probability of every token."""
    # solution: divide by the temperature, subtract the largest, take exp, divide by the sum
    scores = logits / temperature
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()
    # end

# %% tags=["check"]
for t in (0.5, 2.0):
    wanted = choosing.probabilities(ll.Sampler(chain=[Temperature(t=t)]), logits)
    ll.lessons.check(f"softmax at temperature {t}", lambda t=t: softmax(logits, t), wanted, hint="p = exp(logits / t) / sum(exp(logits / t))")
large = np.array([1000.0, 1000.0])
ll.lessons.check("softmax of large scores", lambda: softmax(large, 1.0), [0.5, 0.5], hint="subtract the largest score before exp")

# %% [markdown]
# The package's own is `Candidates.probabilities` in `llmlite/sampling/`. It has the same two lines.
#
# ## 4. Cutting the tail
#
# *Time to here: 9 minutes.*
#
# There is a catch. Each bad token has a tiny chance, but there are very many of them. Let's draw from all of them,
# at a high temperature.

# %%
print("Once upon a time" + writer.generate(
    "Once upon a time", max_tokens=40, temperature=1.5, top_k=0, top_p=1, seed=0))

# %% [markdown]
# One wrong token is enough, and then the model has to go on from there. So the bad tokens are cut off before drawing.
# Three rules are in use everywhere:
#
# - **top-k** keeps the k likeliest tokens;
# - **top-p** keeps the likeliest tokens until together they reach the share p. The one that reaches it stays;
# - **min-p** keeps the tokens that are at least p times as likely as the likeliest.
#
# What is left is divided by its sum, so that it sums to 1 again.
#
# **Exercise 2.** Write the first two. They get probabilities and give probabilities back, with 0 for the tokens that
# are cut. If you like, let `top_p` find out how many to keep, and call `top_k`.

# %% tags=["exercise"]
def top_k(probabilities, k):
    """Keep the k likeliest tokens."""
    # solution: np.argsort(-probabilities) lists the likeliest first; copy those into np.zeros_like, divide by the sum
    kept = np.zeros_like(probabilities)
    first = np.argsort(-probabilities)[:k]
    kept[first] = probabilities[first]
    return kept / kept.sum()
    # end


def top_p(probabilities, p):
    """Keep the likeliest tokens that together reach p."""
    # solution: np.cumsum over the sorted probabilities; how many sums are still below p? One more is kept
    reached = np.cumsum(np.sort(probabilities)[::-1])
    return top_k(probabilities, 1 + np.count_nonzero(reached < p))
    # end

# %% tags=["check"]
from llmlite.sampling import TopK, TopP

plain = choosing.probabilities(ll.Sampler(chain=[]), logits)
wanted = choosing.probabilities(ll.Sampler(chain=[TopK(k=5)]), logits)
ll.lessons.check("top-k", lambda: top_k(plain, 5), wanted, hint="5 tokens stay, and sum to 1")
wanted = choosing.probabilities(ll.Sampler(chain=[TopP(p=0.6)]), logits)
ll.lessons.check("top-p", lambda: top_p(plain, 0.6), wanted, hint="the token that reaches p stays")

# %% [markdown]
# Now all of it together. The explorer below runs the model **once**. After that the sliders only work on the scores.
# For each token you see its chance before and after, and which step cut it.
#
# Set top-p to 0.9 and see how many tokens are left: the bundled model knows many good places. Then replace the prompt with
# `Once upon a time`.
#
# (By keyboard: Tab moves on, the arrows move a slider, the space bar presses a button, Enter reads a new prompt.)

# %%
ll.lessons.predict(
    "The prompt gets shorter: \"Once upon a time\" instead of \"Once upon a time there was "
    "a\". Will top-p 0.9 keep more tokens or fewer?",
    ["more", "as many", "fewer"], "fewer",
    "A tale goes on in two or three ways here. And what would top-k 5 do to each of the two "
    "prompts?",
)

# %%
ll.widgets.sampling_explorer(model, "Once upon a time there was a")

# %% [markdown] tags=["answer"]
# Top-k always keeps the same number. If the model is sure, that lets bad tokens in; if many tokens are good, it
# throws good ones out. Top-p follows the model: few tokens if it is sure, many if it isn't.

# %% [markdown]
# The last column of the lower table says how open the choice is: *as open as an even choice among n tokens*. This n is 2
# to the power of the **entropy**, which is counted in bits.

# %%
ll.lessons.predict(
    "Leave top-p at 0.9, set the temperature to 2, and press \"temperature first\". Will more "
    "tokens be kept, or fewer?",
    ["more", "as many", "fewer"], "more",
    "The scores are flattened before the cut, so many more tokens are needed to reach 0.9. "
    "Try it in the explorer.",
)

# %% [markdown]
# The order of the steps is part of the rule. llmlite has temperature last, like llama.cpp, so changing the temperature
# doesn't change *which* tokens may be drawn. Other libraries have it first. The same numbers then mean something else: a
# setting that you copy from somewhere needs its order.
#
# The same steps, without sliders. `stages` runs the sampler's own chain:

# %%
sampler = ll.Sampler(temperature=0.8, top_k=40, top_p=0.95, min_p=0.3)
for stage in choosing.stages(sampler, logits):
    print(f"{stage.name:16} {len(stage.ids):5} left")

# %%
kept = choosing.stages(sampler, logits)[-1].ids
print([model.tokenizer.decode([token]) for token in kept])

# %% [markdown] tags=["instructor"]
# > *Likely question:* "Do I need all three?" Usually one of top-p and min-p is enough; both follow the model. Top-k is
# > a safety belt: a fixed limit that costs nothing.
# >
# > *Likely question:* "Which settings are the best?" There is no answer without a task. For extracting a number from a
# > text: greedy. For tales: draw.

# %% [markdown]
# ## 5. Drawing, and drawing again
#
# *Time to here: 15 minutes.*
#
# The draw itself needs one random number between 0 and 1. Lay the chances side by side on a line of length 1; the
# number falls on one of them.
#
# Random numbers on a computer come from a **seed**: the same seed gives the same numbers, so the same text.

# %%
ll.lessons.predict(
    "Two samplers have seed 7, one has seed 8. Each draws eight tokens from the same scores. "
    "Which rows are equal?",
    ["all three", "the first two", "none"], "the first two",
    "The seed is all that differs.",
)

# %%
for seed in (7, 7, 8):
    sampler = ll.Sampler(seed=seed)
    print(seed, [sampler(logits) for _ in range(8)])

# %%
counts = choosing.draws(ll.Sampler(chain=[], seed=1), logits, 1000)
chance = choosing.probabilities(ll.Sampler(chain=[]), logits)
for token, name in zip(top[:4], names):
    print(f"{name:12} expected {1000 * chance[token]:5.0f}, drawn {counts[token]:4}")

# %% [markdown]
# Close, not equal: a thousand draws scatter. `Sampler` in `llmlite/sampling/` does all of this in one call,
# `sampler(logits)`, and `model.generate` calls it for each token.
#
# ## 6. Where does the choice come from?
#
# *Time to here: 17 minutes.*
#
# The scores are made at the very end: the last layer's result is normalized and multiplied by the output matrix. But
# each layer passes on a vector of the same width, the **residual stream** (lesson 04). Nothing keeps us from reading
# *that* with the same matrix, as if the model had to answer early. This is the **logit lens**.

# %%
text = "Rokan lived in a village. One day Rok"
trace = model.trace(text)
x = trace[f"l_out-{model.config.n_layer - 1}"][-1]             # what the last layer passes on
x = x / np.sqrt(np.mean(x * x)) * model.weights.output_norm    # the final norm
scores = model.weights.output.dequantize() @ x                 # the output matrix: a score per token
print(model.tokenizer.decode([scores.argmax()]))

# %% [markdown]
# The tale has a name that the bundled model has never seen. After the second `Rok` it must copy the rest, `an`. In the
# grid, each column is a token that was read, each row a layer; a cell shows what the model would say if it stopped
# there. The bluer, the surer. Click on a cell (or move the sliders) to see its five likeliest.

# %%
ll.lessons.predict(
    "The bottom row reads the embedding, before any layer has worked. What will it say?",
    ["the token that was read", "the token that comes next", "nothing that makes sense"], "the token that was read",
    "And from which layer on does the last column say what the model says in the end? See the "
    "grid.",
)

# %%
ll.widgets.logit_lens(model, text)

# %%
found = ll.lessons.lens.lens(model, text)
last = len(found.ids) - 1
for position in (min(8, last), min(5, last), last):
    read = model.tokenizer.decode(found.ids[1 if model.tokenizer.add_bos else 0 : position + 1])
    said = model.tokenizer.decode([found.best[-1, position]])
    print(f"{read!r}: {said!r} is on top from {found.stages[found.settled(position)]} on")

# %% [markdown] tags=["answer"]
# The bottom row says the token itself. In both `tales` and SmolLM2 the embedding and the output matrix are the same matrix,
# so reading a token's own vector finds the token.
#
# Then the layers work on it. What follows from a word or two alone is there early. Copying a name needs a look far back,
# and the heads that do it are in the late layers: only there does the right end of the name come up.

# %% [markdown]
# One warning: the lens shows what the *last* step would make of an early vector. A layer may know something in a form
# that the output matrix can't read yet.
#
# ## Recap
#
# - A model gives **scores**; the sampler chooses.
# - **Softmax** makes chances of scores; **temperature** sharpens or flattens them; 0 is greedy.
# - **Top-k** keeps a number of tokens, **top-p** a share. Top-p follows how sure the model is.
# - **The order** of the steps matters, and the **seed** makes a draw repeatable.
# - The **logit lens** reads any layer as if it were the last.
#
# On the command line: `llmlite run tales --temperature 0.7 --top-p 0.9 --seed 2`.
#
# **Words.** *draw*: choose at random, each token with its chance. *entropy*: how open a choice is; n bits are an even
# choice among 2 to the power of n. *greedy*: always the highest score. *logits*: one score for each possible next token.
# *residual stream*: the vector that each layer reads, adds to, and passes on. *sampler*: the steps from scores to a token.
# *seed*: the number that random numbers start from. *softmax*: exp of each score, divided by their sum. *temperature*: what
# scores are divided by. *top-k, top-p, min-p*: rules for which tokens may be drawn.
