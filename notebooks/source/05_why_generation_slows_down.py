# %% [markdown]
# # Why generation slows down, and the KV cache
#
# *About 25 minutes. Running every cell takes about ten seconds.*
#
# A model writes one token at a time, and each token depends on all the text before it. If it read all of that text again
# each time, every further token would take longer than the one before. It doesn't. What was computed once is
# kept, in the **KV cache**. It is what makes chatting possible, and it is what eats your memory.
#
# **Afterwards you can**
#
# - say how much work the cache saves, and write one;
# - explain why only keys and values are kept, and not the queries;
# - measure how time per token grows with the text, with a cache and without;
# - compute how many bytes a cache takes, for a model whose heads you know and any number of tokens;
# - say why reading a prompt and writing an answer are two different kinds of work.

# %% [markdown] tags=["instructor"]
# > **For the instructor.** Minutes: section 1 six with exercise 1, section 2 seven with exercise 2, section 3 five,
# > section 4 five with exercise 3, recap two.
# >
# > *Talking point.* Ask who has seen a chat become slow or fail after a long paste. The memory of section 4 is why.
# >
# > *Likely question:* "Why not keep the logits too?" Nothing later ever reads them again. Keys and values are read by
# > every later token.

# %%
import llmlite as ll

# %% [markdown]
# ## 1. Reading it all again
#
# We let the model read a text of 40 tokens, and ask after each token what could come next. Once with a cache, once as if
# there were none.

# %%
MODEL = "tales"  # or "smollm2" (llmlite pull smollm2), or a path; numbers in the text are of "tales"

# %%
model = ll.load(MODEL, kv_dtype="f32")
text = "Once upon a time there lived a fox and a hen in a small house at the end of the wood. " * 2
ids = model.tokenizer.encode(text)[:40]

# %%
ll.lessons.predict(
    "With a cache, 40 tokens go through the model. How many without?",
    ["about 80", "about 800", "about 8000"], "about 800",
    "The next cell counts them.",
)

# %%
from llmlite.lessons import caching

with_cache, few = caching.logits_step_by_step(model, ids, cached=True)
without, many = caching.logits_step_by_step(model, ids, cached=False)
print(few, "tokens with a cache,", many, "without")
print("the largest difference is below 0.001:", bool(abs(with_cache - without).max() < 1e-3))

# %% [markdown] tags=["answer"]
# The same answers, for a twentieth of the tokens. The first token is read 40 times without a cache, the second 39 times,
# and so on: 40 + 39 + … + 1 = 820. Twice the text is four times as many tokens.

# %% [markdown]
# Tokens are not yet time. So we take the time of **one more token** after texts of several lengths, with the cache and
# without. The fastest of three counts.

# %%
ll.lessons.predict(
    "With the cache, is one more token after 960 tokens as quick as after 15?",
    ["as quick", "slower", "64 times slower"], "slower",
    "The next cell takes the time.",
)

# %% tags=["nbval-ignore-output"]
depths = (15, 240, 960)
for n in depths:
    kept, again = (caching.seconds_for_one_more(model, n, cached=cached) for cached in (True, False))
    print(f"after {n:3} tokens: {1000 * kept:6.2f} ms with the cache, {1000 * again:6.1f} ms without")

# %% [markdown] tags=["answer"]
# Without a cache the time grows with the whole text. With it, much less, but it does grow: the new token still looks at
# **all** earlier keys. All other work is the same at every depth. So the time by which the last row exceeds the first is
# attention's; the longer the text, the larger its share.

# %% [markdown]
# **Exercise 1.** A prompt has `n_prompt` tokens, and the model writes `n_new` more. The first new token comes out of
# reading the prompt; each further one needs the one before it to be read. How many tokens go through the model in all,
# with a cache and without?

# %% tags=["exercise"]
def work(n_prompt, n_new):
    """Return (with a cache, without)."""
    # solution: with: the prompt, then one for each further token; without: n_prompt, n_prompt + 1, ...
    return n_prompt + n_new - 1, sum(n_prompt + i for i in range(n_new))
    # end

# %% tags=["check"]
wanted = [sum(caching.tokens_processed(100, 50, cached=cached)) for cached in (True, False)]
ll.lessons.check("100 tokens and 50 more", lambda: list(work(100, 50)), wanted, hint="without: 100 + 101 + ... + 149")
ll.lessons.check("one new token", lambda: list(work(7, 1)), [7, 7], hint="the prompt is read once either way")

# %%
cached, uncached = (caching.tokens_processed(20, 200, cached=c) for c in (True, False))
ll.plots.show(ll.plots.caching.work(cached, uncached))

# %% [markdown]
# ## 2. What must be kept?
#
# *Time to here: 6 minutes.*
#
# In the last lesson each token made a query, a key and a value. A new token looks back with **its** query at the
# **keys** of all earlier tokens, and mixes their **values**. The queries of the earlier tokens are never needed again.
#
# And do the old keys change when a new token comes? No: a token looks only backwards, so nothing that comes later can
# change it. That's why keeping them is allowed at all.
#
# **Exercise 2.** Write attention with a cache: one token comes in, its key and value are appended, and it looks at all
# that is there. Fill in the function; it gets lists that grow.

# %%
import numpy as np

trace = model.trace(ids)
Q, K, V = (trace[f"{name}cur-0"][:, 0] for name in "QKV")

# %% tags=["exercise"]
def step(q, k, v, keys, values):
    """Append k and v, each (d,), to the lists; return what q fetches, (d,)."""
    # solution: append, then scores = stacked keys @ q / sqrt(d), softmax, shares @ stacked values; no mask
    keys.append(k)
    values.append(v)
    scores = np.array(keys) @ q / np.sqrt(len(q))
    shares = np.exp(scores - scores.max())
    return shares / shares.sum() @ np.array(values)
    # end

# %% tags=["check"]
def step_by_step():
    keys, values = [], []
    return [step(q, k, v, keys, values) for q, k, v in zip(Q, K, V)]
ll.lessons.check("head 0 of layer 0", step_by_step, trace["kqv_out-0"][:, : Q.shape[1]], rtol=1e-4,
                 hint="no mask is needed: the later tokens are not in the lists yet")

# %% [markdown]
# That is a KV cache. The real one is `llmlite/engine/kv_cache.py`: two arrays, filled from the left.
#
# ## 3. Watch it fill
#
# *Time to here: 13 minutes.*
#
# A row for each layer and each head of keys, a column for each token. Move the slider (or the arrow keys): with each
# token a whole column is filled, in all layers. The stronger the colour, the larger the key's numbers.

# %%
ll.lessons.predict(
    "The bundled model has 5 layers with 2 heads of keys and values, of 64 numbers each. How "
    "many bytes does one token take, at 2 bytes per number?",
    ["640", "1280", "2560"], "2560",
    "2 · 5 · 2 · 64 · 2. The first 2 is for keys *and* values.",
)

# %%
ll.widgets.cache_grid(model, "Once upon a time there lived a fox and a hen in a small house.")

# %% [markdown] tags=["answer"]
# 2 · 5 · 2 · 64 · 2 = 2560. The first 2 is for keys *and* values.

# %% [markdown]
# Reading the prompt fills many columns at once, since all its tokens are there from the start. This is called
# **prefill**. Writing fills one column after the other, because each token depends on the one before: **decode**.
# Prefill can use each weight for many tokens as soon as it has been fetched from memory. Decode fetches all weights
# for a single token. That's why reading is so much faster than writing, and lesson 07 measures it.
#
# ## 4. What it costs
#
# *Time to here: 18 minutes.*
#
# **Exercise 3.** Write the formula. `shape` has `n_layer`, `n_head_kv` and `head_size`. The head size is how many
# numbers a key has. Often it is the model's width divided by its heads, but not always: qwen3-0.6b is 1024 wide with 16
# heads, which would give 64. Its file says 128. Read it, don't divide.

# %%
shapes = caching.known_shapes()
llama = shapes["llama-3.2-1b"]
print(llama.n_layer, "layers;", llama.n_head, "heads of queries,", llama.n_head_kv, "of keys")
print("head size", llama.head_size)

# %% tags=["exercise"]
def cache_bytes(shape, n_tokens, bytes_per_number):
    # solution: keys and values, layers, heads of keys, head size, tokens, bytes: six factors
    return 2 * shape.n_layer * shape.n_head_kv * shape.head_size * n_tokens * bytes_per_number
    # end

# %% tags=["check"]
for name, shape in shapes.items():
    ll.lessons.check(name, lambda shape=shape: cache_bytes(shape, 8192, 2), caching.cache_bytes(shape, 8192, 2),
                     hint="keys and values; in every layer, for every head of keys")

# %%
ll.lessons.predict(
    "The weights of Llama 3.2 1B take about 770 MB in Q4_0. From how many tokens on does its "
    "cache take more than that?",
    ["about 2,000", "about 20,000", "about 200,000"], "about 20,000",
    "The figure below shows it: 32 KB for each token.",
)

# %%
contexts = [2048, 8192, 32768, 131072]
ll.plots.show(ll.plots.caching.sizes(shapes, contexts))

# %% [markdown] tags=["answer"]
# 32 KB per token: at 24,000 tokens the cache is as large as the model.

# %% [markdown]
# Look at the lines: a model's size hardly decides. `smollm2-135m` has an eighth of the weights of `tinyllama-1.1b`
# and needs a little more cache, because it has more layers and shares less: 3 heads of queries to one of keys, against 8.
# `qwen2.5-0.5b` needs least, with 7 to one.
#
# The largest cache is that of `qwen3-0.6b`: 28 layers, 8 heads of keys, 128 numbers each. That is 112 KB per token in F16.
#
# Ways out, in numbers of real models, for 32,768 tokens:

# %%
for name in ("llama-3.2-1b", "qwen3-0.6b"):
    shape, one = shapes[name], caching.cache_bytes(shapes[name], 32768) / 1e9
    alone = one * shape.n_head / shape.n_head_kv
    print(f"{name:13} no shared heads {alone:5.2f} GB | shared {one:5.2f} | "
          f"shared, Q8_0 {one * 8.5 / 16:5.2f} | shared, window of 1,024 in every layer {one / 32:5.3f}")

# %% [markdown]
# **Shared heads** are built into the model. **Q8_0** keeps 34 bytes for 32 numbers instead of 64. A **window** lets a
# layer look back only so far, and keeps only that; real models have it in a part of their layers. What is left to you: a
# shorter context (`ll.load(..., n_ctx=2048)`), smaller numbers in the cache (`kv_dtype`), or another model.
#
# Writing has a second limit: for each token, every weight must come from memory. That is the
# **memory wall** of lesson 07.
#
# ## Recap
#
# - Without a cache, twice the text is more than four times the work. With it, it is twice as many tokens; each of them
#   looks at all before it, so attention's share grows with the text.
# - Keys and values are kept, because every later token reads them and nothing later changes them.
# - Bytes = 2 · layers · heads of keys · head size · tokens · bytes per number.
# - Prefill reads many tokens at once, decode writes one at a time.
#
# **Words.** *context*: the tokens a model has before it; `n_ctx` is how many there is room for. *decode*: writing token by
# token. *KV cache*: the kept keys and values of all tokens so far. *prefill*: reading the prompt.
