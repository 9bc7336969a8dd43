# %% [markdown]
# # One token through the whole model
#
# *About 35 minutes. Running every cell takes about ten seconds.*
#
# The next lessons look at single parts: attention, the cache, the choice of a token, the kernels. This one shows the
# whole way first. A text goes in, scores for the next token come out, and in between there are thirteen kinds of steps.
# You compute each of them in NumPy, and the engine tells you whether your numbers are its numbers.
#
# **Afterwards you can**
#
# - say how a text becomes tokens, and which texts make many of them;
# - follow a token through embedding, norms, attention and feed-forward network;
# - turn a query by its position (RoPE), and show why only the distance counts;
# - compute a model's scores from its weights, with NumPy alone.

# %% [markdown] tags=["instructor"]
# > **For the instructor.** Minutes: section 1 with exercise 1 eight, section 2 with exercise 2 six, section 3 with
# > exercise 3 ten, section 4 with exercise 4 six, section 5 five.
# >
# > *Talking point.* There is no step here that a pupil couldn't do on paper. What makes a model is how many there are:
# > four million multiplications for one token, and this is a tiny one.
# >
# > *Likely question:* "Where is the knowledge?" In the matrices. Two models of the same shape differ in nothing else.

# %%
import llmlite as ll

# %% [markdown]
# ## 1. Text becomes tokens
#
# A model reads numbers. The **tokenizer** cuts a text into pieces that it knows, the **tokens**, and gives each its
# number in a fixed list, the **vocabulary**. The bundled model knows 2,048 pieces, of which some are words and some are
# parts of words. (A space is shown as ␣.)

# %%
MODEL = "tales"  # or "smollm2" (llmlite pull smollm2), or a path; numbers in the text are of "tales"

# %% [markdown]
# We load it with the options that follow every step in NumPy (`executor="eager"`) and keep 32 bits for all that is computed
# (`kv_dtype="f32"`).

# %%
import numpy as np

from llmlite.lessons import one_token

model = ll.load(MODEL, executor="eager", kv_dtype="f32")

# %%
texts = [" fox", "fox", "The fox was", "1999", "naïve", "Straßenbahn", "🦊"]
found = one_token.cuts(model, texts)
rows = [(text, n, len(tokens), "  ".join(tokens)) for text, n, tokens in found]
columns = ["text", "bytes", "tokens", "the pieces"]
ll.plots.show(ll.plots.Table(
    heading="Where a text is cut", columns=columns, rows=rows, alt="Each text with its pieces"))

# %% [markdown]
# - A **space** belongs to the word after it: ` fox` is one token, `fox` without a space is two. That's why a prompt
#   should not end with a space.
# - **Digits** are tokens of their own here: the model sees 1, 9, 9, 9 and has to learn what a thousand is.
# - **German** breaks into small pieces. The list was made from English tales, and there a `ß` never occurs.
# - An **emoji** is four bytes in UTF-8, and there is no token for all of them. Every byte is a token, so nothing is
#   impossible to read, only long.
#
# The more pieces, the more work, and the less room is left: the number of tokens that a model can read is limited.
#
# How does the tokenizer know where to cut? It begins with single letters and **merges** neighbours. A list says which
# pairs may be merged, and which of them goes first. This is called **byte-pair encoding**.

# %%
ranks = one_token.merge_ranks(model)
print(list(ranks)[:5], "...", len(ranks), "pairs")

# %%
ll.lessons.predict(
    "The first pair in the bundled model's list is h+e, the second ␣+t, the third ␣t+he. "
    "Which steps make ' the' one token?",
    ["␣+t, then h+e, then ␣t+he", "h+e, then ␣+t, then ␣t+he", "␣+t, then ␣t+h, then ␣th+e"],
    "h+e, then ␣+t, then ␣t+he",
    "The pair that comes first in the list is merged first, wherever it is in the word.",
)

# %% [markdown]
# **Exercise 1.** Merge as long as you can: of all neighbours that are in `ranks`, take the pair with the lowest rank
# (the first such place), and make one piece of the two. Repeat until no such pair is left.

# %% tags=["exercise"]
def merge(pieces):
    """Return the pieces after all merges; `pieces` is a list of letters."""
    # solution: while there are known neighbours: find the place i of the lowest rank, join pieces[i] and pieces[i + 1]
    pieces = list(pieces)
    while True:
        places = [i for i in range(len(pieces) - 1) if (pieces[i], pieces[i + 1]) in ranks]
        if not places:
            return pieces
        i = min(places, key=lambda i: ranks[pieces[i], pieces[i + 1]])
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    # end

# %% tags=["check"]
for word in ("␣the", "␣lamplighter", "barks"):
    (_, _, wanted), = one_token.cuts(model, [word.replace("␣", " ")])
    ll.lessons.check(f"the pieces of {word}", lambda word=word: merge(word), wanted, hint="min(places, key=rank of the pair at i)")

# %% [markdown]
# ## 2. A row of the embedding, and a norm
#
# *Time to here: 8 minutes.*
#
# From here on, each token is a vector of 256 numbers. The first one is a row of a matrix, the **embedding**: the token's
# number says which row. `model.trace` keeps everything that the engine computes, so we can compare.

# %%
prompt = "The fox was hungry, and the fox was"
trace = model.trace(prompt)
E = model.weights.token_embd.dequantize()
x = E[trace.ids]
print(x.shape, bool((x == trace["embd"]).all()))

# %%
ll.lessons.predict(
    "Nobody told the model what a fox is. Which rows will lie in nearly the same direction as "
    "the row of ' fox'?",
    ["words that are spelled alike", "other animals", "words that often come before or after it"], "other animals",
    "The next cell finds the two nearest, also those of ' baker'.",
)

# %%
directions = E / np.linalg.norm(E, axis=1, keepdims=True)
for word in (" fox", " baker"):
    (token,) = model.tokenizer.encode(word, add_special=False)
    near = np.argsort(-directions @ directions[token])[1:3]
    print(word, "->", [model.tokenizer.decode([i]) for i in near])

# %% [markdown] tags=["answer"]
# Animals beside animals, trades beside trades. The model learned this only because they occur in similar places in
# sentences.

# %% [markdown]
# This vector is the beginning of the **residual stream**: it goes through all layers, and each layer adds something to
# it. Before a layer reads it, a copy is brought to a standard size. This is a **norm**, here RMSNorm: divide by the root
# of the mean square, then multiply each number by a learned one, the *gain*. A tiny `eps` under the root keeps it from
# dividing by zero.
#
# **Exercise 2.** Write it, for `x` of shape (T, D).

# %%
w = one_token.matrices(model, 0)
eps = model.config.rms_eps
print({name: tensor.shape for name, tensor in w.items()})

# %% tags=["exercise"]
def norm(x, gain):
    """Return x (T, D), each row divided by its root mean square, times gain (D,)."""
    # solution: np.mean(x * x, axis=-1, keepdims=True), plus eps, then np.sqrt
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * gain
    # end

# %% tags=["check"]
ll.lessons.check("norm of layer 0", lambda: norm(x, w["attn_norm"]), trace["attn_norm-0"], hint="x / sqrt(mean of squares + eps) * gain, along the last axis")

# %% [markdown]
# ## 3. Queries, keys, values: and a turn
#
# *Time to here: 14 minutes.*
#
# Three matrices make a **query**, a **key** and a **value** of the normed vector. The next lesson is about what they
# do. Each is cut into several **heads** of `d` numbers, which work side by side. Here is the query, straight from its
# matrix.

# %%
mixer = model.config.layers[0].mixer
n_head, n_head_kv, d, base = mixer.n_head, mixer.n_head_kv, mixer.key_size, mixer.rope.base
print(n_head, "heads of queries,", n_head_kv, "of keys and of values; d =", d)

# %%
x = trace["attn_norm-0"]
q = (x @ w["attn_q"].T).reshape(len(x), n_head, d)
Q = trace["Qcur-0"]
same = [bool(np.allclose(a, b, atol=1e-4)) for a, b in zip(q, Q)]
print("as the engine has it, token by token:", same)

# %% [markdown]
# Only the first token agrees, the one at position 0. Something is missing that depends on the position: a query has to
# know *where* it is. Its numbers are taken in pairs, and each pair is **turned** by an angle: position times a
# frequency. The pairs have different frequencies, like the hands of a clock. This is **RoPE**, rotary position
# embedding. At position 0 nothing is turned, so that token agreed.
#
# By hand, with one pair, the frequency 1 and the position 2:

# %%
def turned(pair, angle):
    a, b = pair
    return np.array([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)])

turned([1.0, 0.0], 2.0).round(3)

# %% [markdown]
# How well a query fits a key is their **dot product**: multiply number by number, and add up.

# %%
ll.lessons.predict(
    "A query at position 7 meets a key at position 3. Then both move on by 100. Does their "
    "dot product change?",
    ["yes", "no"], "no",
    "Both are turned by the same angle more, so nothing changes between them.",
)

# %%
query, key = np.array([1.0, 0.5]), np.array([0.2, 2.0])
here = turned(query, 7.0) @ turned(key, 3.0)
there = turned(query, 107.0) @ turned(key, 103.0)
assert np.isclose(here, there), "only the distance counts"
print(round(float(here), 6), round(float(there), 6))

# %% [markdown] tags=["answer"]
# It stays. Turning both by the same angle changes nothing between them: **only the distance counts**. So "three tokens
# ago" looks the same everywhere in a text.

# %% [markdown]
# **Exercise 3.** Turn all pairs of all heads. Pair i holds the numbers 2i and 2i + 1, and its frequency is
# `base ** (-2 * i / d)`. (In the bundled model `base` is 10,000 and `d` is 64.)

# %% tags=["exercise"]
def rope(q):
    """Return q of shape (T, H, d), each pair turned by position * frequency; row t is position t."""
    # solution: angles = positions[:, None] * frequencies, then broadcast over the heads with [:, None, :]
    angles = np.arange(len(q))[:, None] * base ** (-np.arange(0, d, 2) / d)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b = q[..., 0::2], q[..., 1::2]
    out = np.empty_like(q)
    out[..., 0::2], out[..., 1::2] = a * cos - b * sin, a * sin + b * cos
    return out
    # end

# %% tags=["check"]
k = (x @ w["attn_k"].T).reshape(len(x), n_head_kv, d)
ll.lessons.check("turned queries", lambda: rope(q), Q, rtol=1e-4, hint="angles of shape (T, d / 2); q[..., 0::2] are the first numbers of all pairs, q[..., 1::2] the second")
ll.lessons.check("turned keys", lambda: rope(k), trace["Kcur-0"], rtol=1e-4, hint="angles of shape (T, d / 2); q[..., 0::2] are the first numbers of all pairs, q[..., 1::2] the second")

# %% [markdown]
# Values are not turned: they are fetched, never compared.
#
# ## 4. Fetch, add, think, add
#
# *Time to here: 24 minutes.*
#
# **Attention** fetches values from the tokens before. You write it in the next lesson; here `one_token.attend` does it.
# One matrix more makes 256 numbers of the result, and they are *added* to the stream.

# %%
fetched = one_token.attend(Q, trace["Kcur-0"], trace["Vcur-0"])
stream = trace["embd"] + fetched @ w["attn_output"].T
print("the stream after attention:", bool(np.allclose(stream, trace["ffn_inp-0"], atol=1e-3)))

# %% [markdown]
# Adding is the point: the layer doesn't replace what was there. So what an early layer found can get through to the end, and
# training can reach the early layers.
#
# Then comes the **feed-forward network**. It works on each token alone: three matrices, 768 numbers in between.
#
# `down @ (silu(gate @ x) * (up @ x))`, with `silu(z) = z / (1 + exp(-z))`
#
# About three quarters of a layer's weights are here.
#
# **Exercise 4.** Write it, for all tokens at once.

# %% tags=["exercise"]
def feed_forward(x, w):
    """Return what the network makes of x (T, D); w has "ffn_gate", "ffn_up" and "ffn_down"."""
    # solution: x @ w["ffn_gate"].T and so on; silu on the gate, times up, then down
    gate, up = x @ w["ffn_gate"].T, x @ w["ffn_up"].T
    return (gate / (1 + np.exp(-gate)) * up) @ w["ffn_down"].T
    # end

# %% tags=["check"]
ll.lessons.check("feed-forward network of layer 0", lambda: feed_forward(trace["ffn_norm-0"], w), trace["ffn_out-0"], rtol=1e-4, hint="the gate goes through silu, up doesn't; multiply them number by number")

# %% [markdown]
# ## 5. All of it
#
# *Time to here: 30 minutes.*
#
# A layer is: norm, attention, add; norm, feed-forward, add. The model is: look up the embedding, go through the layers,
# one norm more, and multiply by the output matrix. That gives a score for each token of the vocabulary, the **logits**. In
# `tales` and SmolLM2 the output matrix is the embedding, used once again.
#
# **Exercise 5.** Put your functions together.

# %% tags=["exercise"]
def layer(x, w):
    """Return the stream x (T, D) after a layer; use norm, rope, one_token.attend, feed_forward."""
    # solution: two branches, each added to what came in; q, k and v become heads with reshape(len(x), -1, d)
    h = norm(x, w["attn_norm"])
    q, k, v = ((h @ w[f"attn_{name}"].T).reshape(len(x), -1, d) for name in "qkv")
    x = x + one_token.attend(rope(q), rope(k), v) @ w["attn_output"].T
    return x + feed_forward(norm(x, w["ffn_norm"]), w)
    # stub: return ...
    # end

# %% tags=["check"]
def whole():
    x = E[trace.ids]
    for i in range(model.config.n_layer):
        x = layer(x, one_token.matrices(model, i))
    return norm(x, model.weights.output_norm) @ model.weights.output.dequantize().T
ll.lessons.check("layer 0", lambda: layer(E[trace.ids], w), trace["l_out-0"], rtol=1e-4, hint="x = x + attention(norm(x)), then x + feed_forward(norm(x)); v is not turned")
ll.lessons.check("the logits of the whole model", whole, trace["result_output"], rtol=1e-3, hint="x = x + attention(norm(x)), then x + feed_forward(norm(x)); v is not turned")

# %% [markdown]
# That's a language model: some forty lines. The engine's version is `llmlite/engine/transformer.py`; it walks the same
# way, for many architectures.
#
# Here is the way as a diagram. *Step* lights one box after the other and shows its numbers below; *Token* and *Layer*
# choose whose. (Tab moves on, the arrow keys move a slider.)

# %%
ll.lessons.predict(
    "Light the step + in the diagram and go through the layers. What becomes of the stream's "
    "numbers?",
    ["they get smaller", "their size stays", "they get larger"], "they get larger",
    "Each layer adds. The last norm brings them back, so the scores don't depend on how much "
    "was added.",
)

# %%
ll.widgets.token_path(model, prompt)

# %% [markdown]
# The same for the last token, as numbers: the root of the sum of squares after each layer.

# %%
sizes = [float(np.linalg.norm(trace[f"l_out-{i}"][-1])) for i in range(model.config.n_layer)]
print("size after each layer:", [round(n) for n in sizes])
best = np.argsort(-trace["result_output"][-1])[:3]
print("next:", [model.tokenizer.decode([i]) for i in best])

# %% [markdown]
# ## Recap
#
# - A **tokenizer** cuts a text into pieces of a fixed vocabulary. Text unlike its training text becomes many pieces.
# - The **stream** begins as a row of the embedding. Layers read a normed copy of it, and add to it.
# - **RoPE** turns queries and keys by their positions; in their dot product only the distance is left.
# - **Attention** moves information between tokens, the **feed-forward network** works on each alone.
# - After the last layer, one matrix gives the **logits**.
#
# **Words.** *byte-pair encoding*: making tokens by merging neighbours, the most frequent pairs first. *embedding*: the
# matrix with a row for each token. *feed-forward network*: the part of a layer that works on each token alone. *gain*: the
# learned number by which a norm multiplies. *layer*: attention and a feed-forward network, each added to the stream.
# *logits*: one score for each possible next token. *norm*: brings a vector to a standard size. *residual stream*: the
# vector that each layer reads, adds to, and passes on. *RoPE*: turning queries and keys by their position. *token*: a piece
# of text that the model knows by number. *tokenizer*: cuts a text into tokens. *vocabulary*: all tokens there are.
