# %% [markdown]
# # Attention by hand
#
# *About 30 minutes. Running every cell takes about ten seconds.*
#
# A model reads a text in pieces called **tokens**: a word, a part of one, a comma. A **tokenizer** cuts them. Each
# token becomes a vector, a row of numbers. It then goes through a stack of **layers**, numbered from 0. A layer does two
# things: attention, which fetches from other tokens, and a **feed-forward network**, which works on each token alone.
# Before each of the two, a **norm** brings the vector to a common size. What they compute is *added* to the vector. This
# vector, which every layer reads and adds to, is called the **residual stream**.
#
# A token by itself says little. "It" may be a dog or a stone. To go on with a text, the model must fetch what matters
# from the tokens before. The part that fetches is called **attention**. It is a few lines of matrix arithmetic, and you
# will write them.
#
# **Afterwards you can**
#
# - compute attention from queries, keys and values, with NumPy alone;
# - say how a query and a key know their positions in the text;
# - say why a token can't look at what comes after it;
# - explain heads, and why several of them may share their keys and values;
# - find out where a model took an answer from, and prove it.

# %% [markdown] tags=["instructor"]
# > **For the instructor.** Minutes: section 1 five, section 2 with exercise 1 eight, section 3 with exercise 2 seven,
# > section 4 four, section 5 six.
# >
# > *Talking point.* Section 5 is the heart: a picture of weights is a story; an answer that changes when the sentence
# > goes is evidence. Let people predict aloud before they press.
# >
# > *Likely question:* "Does it look at the right sentence by rule?" No. Nobody wrote such a rule. It was learned, from
# > tales with other names in them: the names in these questions never occurred in training.

# %%
import llmlite as ll

# %% [markdown]
# ## 1. Asking, offering, giving
#
# Each token has a vector in the residual stream. From its normalized copy the model computes three others, by
# multiplying with three matrices that it has learned:
#
# - a **query**: what this token is looking for;
# - a **key**: what this token offers to others;
# - a **value**: what it gives to a token that looks at it.
#
# How well a query fits a key is their dot product: multiply number by number, add up. Large means it fits.
#
# Here are three tokens with vectors of two numbers, made up by hand.

# %%
import numpy as np

q = np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
k = np.array([[2.0, 0.0], [0.0, 2.0], [0.5, 0.5]])
v = np.array([[10.0, 0.0], [0.0, 10.0], [5.0, 5.0]])
q @ k.T

# %% [markdown]
# Row 2 belongs to the last token. Its query fits the key of token 0 best: 6, against 0 and 1.5.
#
# These scores become shares that sum to 1: that is what **softmax** does (`exp` of each, divided by their sum). Then
# the values are mixed by these shares. So the last token gets mostly the value of token 0.
#
# Two details:
#
# - the scores are divided by the square root of how many numbers a vector has (the **head size**). A sum of many
#   products would be large, and softmax of large scores puts all the weight on one token;
# - a token may look only **backwards**. When the model writes, what comes after isn't there yet. So the scores of later
#   tokens are set to minus infinity, which softmax turns into 0. This is called the **mask**.

# %%
ll.lessons.predict(
    "With the mask, how much does the first token get of itself?",
    ["a third", "one half", "all"], "all",
    "There is nothing before it, so it looks at itself alone.",
)

# %%
hidden = np.triu(np.ones((3, 3), bool), 1)
scores = np.where(hidden, -np.inf, q @ k.T / np.sqrt(2))
shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
shares.round(3)

# %% [markdown] tags=["answer"]
# It can look only at itself, so the share is 1, whatever the scores are.

# %% [markdown]
# ## 2. Your own attention
#
# *Time to here: 5 minutes.*
#
# **Exercise 1.** Put the steps together: scores, mask, softmax, mix. `q` has a row per token that looks; `k` and `v` have
# a row per token that is looked at.

# %% tags=["exercise"]
def attend(q, k, v):
    """Return (shares, mixed values) for q, k, v of shape (T, d)."""
    T, d = q.shape
    # solution: four lines, all of them are above; d in place of 2
    hidden = np.triu(np.ones((T, T), bool), 1)
    scores = np.where(hidden, -np.inf, q @ k.T / np.sqrt(d))
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares = shares / shares.sum(axis=1, keepdims=True)
    return shares, shares @ v
    # end

# %% tags=["check"]
ll.lessons.check("shares", lambda: attend(q, k, v)[0], shares, hint="np.where(hidden, -np.inf, ...), then softmax along each row")
ll.lessons.check("mixed values", lambda: attend(q, k, v)[1], shares @ v, hint="shares @ v")

# %% [markdown]
# Does a real model do the same? `model.trace` keeps everything that was computed on the way. We take the queries, keys
# and values of layer 0.

# %%
MODEL = "tales"  # or "smollm2" (llmlite pull smollm2), or a path; numbers in the text are of "tales"

# %%
model = ll.load(MODEL, executor="eager", kv_dtype="f32")
prompt = "The fox was hungry, and the fox was"
trace = model.trace(prompt)
Q, K, V = trace["Qcur-0"], trace["Kcur-0"], trace["Vcur-0"]
Q.shape, K.shape, V.shape

# %% [markdown]
# Can you get these from the weights? Not by the three matrices alone. Normalize the embedding, multiply: for the values
# that is all. Queries and keys are then **rotated** by an angle that grows with the token's position. This is **RoPE**
# (rotary position embedding). Numbers 0 and 1 of a vector are the two coordinates of a point, which is turned; so are
# numbers 2 and 3, and so on. The later pairs turn more slowly. (The code writes a point as one complex number.) A dot
# product of two turned vectors depends only on the *difference* of their angles: so only the distance between two
# tokens counts.

# %%
def turned(x, base=model.config.layers[0].mixer.rope.base):
    T, _, d = x.shape
    angle = np.arange(T)[:, None, None] * base ** (-np.arange(0, d, 2) / d)
    return ((x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)).view(float).reshape(x.shape)

# %%
h = trace["attn_norm-0"]
weight = {n: model.gguf.tensors[f"blk.0.attn_{n}.weight"].dequantize() for n in "qk"}
plain = {n: (h @ weight[n].T).reshape(len(h), -1, Q.shape[2]) for n in "qk"}
for n, x in zip("qk", (Q, K)):
    alone, then = plain[n], turned(plain[n].astype(float))
    print(n, "by its matrix alone:", bool(np.allclose(alone, x, atol=1e-3)))
    print(n, "then turned:        ", bool(np.allclose(then, x, atol=1e-3)))

# %% [markdown]
# In the shapes above, the first number counts the tokens, the last is the size of a head. Between them are the **heads**.
# The model does not look once but several times side by side, each time with queries of its own. One head may look at the
# token before, another at the subject of the sentence.
#
# Here is head 0, computed by llmlite's engine, and computed from its queries and keys as above.

# %%
T, d = Q.shape[0], Q.shape[2]
scores = np.where(np.triu(np.ones((T, T), bool), 1), -np.inf, Q[:, 0] @ K[:, 0].T / np.sqrt(d))
by_hand = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
engine = trace["kq_soft_max-0"][0]
bool(np.allclose(by_hand, engine, atol=1e-5)), bool(np.allclose(engine.sum(axis=1), 1, atol=1e-5))

# %% [markdown]
# The same. Each row sums to 1.
#
# ## 3. Four that ask, two that answer
#
# *Time to here: 13 minutes.*
#
# In the bundled model there are 4 heads of queries, but only 2 of keys and values. Heads 0 and 1 share the first, heads 2
# and 3 the second. (SmolLM2 has 9 and 3.) This is **grouped-query attention**. Keys and values must be kept for every token
# of the text, queries needn't. So sharing halves what has to be kept. (The next lesson counts the bytes.)
#
# **Exercise 2.** Which head of keys belongs to the head `h` of queries? Then compute all the heads, and put their
# results side by side, (T, H · d), as the engine does.

# %% tags=["exercise"]
def all_heads(Q, K, V):
    """Return (T, H * d) from queries (T, H, d), keys and values (T, K, d)."""
    H, n_kv = Q.shape[1], K.shape[1]
    # solution: H // n_kv query heads share one; use attend from exercise 1, then np.concatenate(..., axis=1)
    shared = H // n_kv
    return np.concatenate([attend(Q[:, h], K[:, h // shared], V[:, h // shared])[1] for h in range(H)], axis=1)
    # end

# %% tags=["check"]
ll.lessons.check(
    "all heads of layer 0", lambda: all_heads(Q, K, V), trace["kqv_out-0"], rtol=1e-4,
    hint="H // n_kv query heads share a key head: with 4 and 2, query head h looks at key head h // 2",
)

# %% [markdown]
# And what does PyTorch say? It has the same function built in. (Without PyTorch on your machine, the cell says so.)

# %% tags=["nbval-ignore-output"]
try:
    import torch.nn.functional as F
    from torch import from_numpy
    shared = (x.repeat(Q.shape[1] // x.shape[1], axis=1) for x in (K, V))
    heads = [from_numpy(x.copy()).transpose(0, 1)[None] for x in (Q, *shared)]
    out = F.scaled_dot_product_attention(*heads, is_causal=True)[0]
    out = out.transpose(0, 1).reshape(T, -1).numpy()
    print("largest difference from the engine:", abs(out - trace["kqv_out-0"]).max())
except ImportError:
    print("PyTorch isn't installed here: pip install torch")

# %% [markdown]
# In the package: `llmlite/engine/transformer.py` says when attention is computed, `llmlite/engine/eager.py` how, in
# NumPy, and `llmlite/engine/kernels/attention.py` how it is done fast.
#
# ## 4. Where does it look?
#
# *Time to here: 20 minutes.*
#
# Below is the map of all of it: choose a layer, a head and a token. The more a token is looked at, the stronger its
# colour. *mean* takes all heads of a layer together. You can change the text. (Tab moves on, the space bar presses, the
# arrow keys move the slider.)

# %%
ll.lessons.predict(
    "The text below begins a list of names twice, up to the second \"and\". Where does head 3 "
    "of layer 3 of the bundled model look from there?",
    ["at the first \"and\"", "at what came after the first \"and\"", "at itself"], "at what came after the first \"and\"",
    "What followed once may follow again. See the map.",
)

# %%
ll.widgets.attention_map(model, "Miro, Talan and Besik met Miro, Talan and")

# %% [markdown] tags=["answer"]
# At what came after the same word the first time. (Another model has such heads in other places.)

# %% [markdown]
# Such heads are called **induction heads**: they find the place where the present token occurred before, and look one
# further. This is how a model copies. Nobody built it in.
#
# ## 5. Erase the sentence
#
# *Time to here: 24 minutes.*
#
# Now a question about a tale. The bundled model was trained to answer such questions, so from here on it is the one we
# ask. The colours say where its last layer looked while it wrote the answer.
#
# A picture alone proves nothing. It might look at one sentence and use another. So we test it: **erase** a sentence and
# ask again.

# %%
ll.lessons.predict(
    "You erase the sentence with the strongest colour, then in its place one that has hardly "
    "any. When does the answer change?",
    ["both times", "only the first time", "only the second time"], "only the first time",
    "Try both below. What does the model say if it can't know the answer?",
)

# %%
fast = ll.load("tales")
ll.widgets.erase_sentence(fast)

# %% [markdown]
# This is more than a picture: we changed the cause and saw the effect change. Here is the same test without the widget,
# for the first of the tales.

# %%
from llmlite.lessons import erase

question = erase.examples(fast, 1)[0]
whole = erase.ask(fast, question)
print("right with the whole tale:", whole == question.answer)
print("changed without the source:", erase.ask(fast, question, question.source) != whole)
print("changed without another:", erase.ask(fast, question, question.other) != whole)

# %% [markdown]
# **Exercise 3.** Does the model look most at the source sentence for *most* questions, or did we pick nice ones? Take
# the first six questions, and count those for which it does. `erase.looked_at(model, question, answer)` gives a number
# per sentence.

# %%
six = erase.questions()[:6]

# %% tags=["exercise"]
# solution: ask, then compare looked_at(...).argmax() with question.source; add up
hits = sum(int(erase.looked_at(fast, q, erase.ask(fast, q)).argmax() == q.source) for q in six)
# end

# %% tags=["check"]
wanted = [int(erase.looked_at(fast, q, erase.ask(fast, q)).argmax()) == q.source for q in six]
ll.lessons.check("questions out of six", hits, sum(wanted), hint="for each question: ask, looked_at, argmax, compare with source")

# %% [markdown]
# ## Recap
#
# - A token asks with its **query**; others offer their **keys**; what is fetched are their **values**.
# - Queries and keys are turned by RoPE before they meet: only the distance counts.
# - Scores, mask, softmax, mix: four lines.
# - The mask lets a token look only backwards.
# - Heads look at different things side by side, and may share keys and values.
# - To know where an answer comes from, erase it and ask again.
#
# **Words.** *attention*: fetching from earlier tokens by fitting queries to keys. *dot product*: multiply number by
# number and add up. *grouped-query attention*: several heads of queries share one head of keys and values. *head*: one
# of several attentions side by side. *induction head*: a head that looks at what followed the present token when it
# last occurred. *layer*: attention and feed-forward network, each adding to the residual stream; numbered from 0.
# *mask*: hides what comes later. *residual stream*: the vector that each layer reads and adds to. *RoPE*: turns queries
# and keys by their position. *softmax*: turns scores into positive shares that sum to 1. *token*: a piece of text, cut
# by the tokenizer. *trace*: everything computed on the way.
