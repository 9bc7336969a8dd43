# %% [markdown]
# # Train in PyTorch, deploy as GGUF
#
# *About 25 minutes. Running every cell takes about twenty seconds; it needs PyTorch.*
#
# Every model in these lessons was once random numbers. Here you watch that change: you train a tiny model with PyTorch,
# write it into a GGUF file, quantize it, and let llmlite tell a tale with it. Each of the two programs does what the
# other can't.
#
# **Afterwards you can**
#
# - say what a loss is, and why it is about 7.6 before the first step;
# - check a gradient with two calculations and a division;
# - bring a trained model from PyTorch into a GGUF file, and prove that nothing was lost;
# - say why training needs a framework, and running doesn't.

# %% [markdown] tags=["instructor"]
# > **For the instructor.** Minutes: section 1 with exercise 1 seven, section 2 with exercise 2 seven, section 3 five,
# > section 4 with exercise 3 six.
# >
# > *In class* set `STEPS = 600`: the run takes about a minute, and the tales get better. Talk over the curve while it
# > falls: what is learned first? (Which tokens occur at all; then word order; then names.)
# >
# > *Likely question:* "Can't llama.cpp train, too?" Its repository has functions to fine-tune an existing model in
# > float32. They start from a finished file, and an architecture that isn't compiled in can't be invented with them.

# %%
import llmlite as ll

# %% [markdown]
# ## 1. Two thousand equal chances
#
# The model is the one of the lesson "One token through the whole model", only smaller: 2 layers, 128 numbers for each
# token. It reads tales that come with llmlite, cut into tokens by the bundled model's tokenizer.
#
# `STEPS` is the number of training steps. 80 take some seconds. 600 take about a minute, and the tales get better.
# (`teacher` is the bundled model. The student uses its tokenizer, but none of its weights.)

# %%
import numpy as np
import torch

from llmlite.lessons import training

STEPS = 80
teacher = ll.load("tales")
ids = training.text_ids(teacher)
student = training.TinyLlama(teacher.config.n_vocab)

# %%
n_weights = sum(p.numel() for p in student.parameters())
print(len(ids), "tokens of text;", n_weights, "weights, all of them random")

# %% [markdown]
# The model reads a piece of text and gives each token of the vocabulary a score, at every position. The **loss** says how
# bad these scores are: take the probability that the model gave to the token that really came next, and minus its
# logarithm. If it was sure and right, that is 0.

# %%
ll.lessons.predict(
    "A model that knows nothing gives each of the 2,048 tokens the same chance. What is its "
    "loss?",
    ["1", "7.6", "2048"], "7.6",
    "-log(1 / 2048) = log(2048) = 7.62. The model's first loss will be near it.",
)

# %% [markdown]
# **Exercise 1.** Compute the loss. A batch is eight pieces of text, of 96 tokens each; here we take the first piece.
# `logits` has a row of scores for each position, `targets` the tokens that came.

# %%
rng = np.random.default_rng(1)
inputs, answers = training.batch(ids, rng)
with torch.no_grad():
    logits = student(inputs)[0].numpy()
targets = answers[0].numpy()

# %% tags=["exercise"]
def loss(logits, targets):
    """Return the mean of -log(probability of the right token); logits (T, V), targets (T,)."""
    # solution: softmax along the last axis, pick [np.arange(T), targets], then -log and the mean
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances = weights / weights.sum(axis=1, keepdims=True)
    return -np.log(chances[np.arange(len(targets)), targets]).mean()
    # end

# %% tags=["check"]
wanted = float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets)))
ll.lessons.check("loss, against PyTorch's", lambda: loss(logits, targets), wanted, rtol=1e-4, hint="one probability for each position: chances[np.arange(T), targets]")
ll.lessons.check("equal chances", lambda: loss(np.zeros((3, 2048)), [0, 1, 2]), np.log(2048), hint="-log(1 / 2048)")

# %% [markdown]
# ## 2. Which way is down?
#
# *Time to here: 7 minutes.*
#
# To lower the loss, each weight has to move a little, in the right direction. How does the loss change when *one* weight
# changes? That number is its **gradient**. PyTorch finds it for all 656,000 weights at once, by going back through the
# calculation: **automatic differentiation**, one call of `backward()`.

# %%
exact = training.TinyLlama(teacher.config.n_vocab).double()  # 64 bits: small differences stay visible
weight = exact.layers[0].mlp["down_proj"].weight
training.loss_of(exact, inputs, answers).backward()
gradient = float(weight.grad[3, 5])

# %% [markdown]
# Do you believe it? There is a way without any calculus: make this one weight a little larger, then a little smaller,
# and see what the loss does. `loss_with(step)` gives the loss with `step` added to that weight.

# %%
@torch.no_grad()
def loss_with(step):
    weight[3, 5] += step
    found = float(training.loss_of(exact, inputs, answers))
    weight[3, 5] -= step
    return found

# %% [markdown]
# **Exercise 2.** Write the slope: the loss at `+step` less the loss at `-step`, divided by the distance between the two.

# %% tags=["exercise"]
def slope(step):
    # solution: (loss_with(step) - loss_with(-step)) / (2 * step)
    return (loss_with(step) - loss_with(-step)) / (2 * step)
    # end

# %% tags=["check"]
ll.lessons.check("slope, against PyTorch's gradient", lambda: slope(1e-4), gradient, rtol=1e-3, hint="the two places are 2 * step apart")

# %% [markdown]
# The same number. This way needs two runs for one weight, so 1.3 million runs for all. Going backwards needs about as
# much as two. Without this invention there would be no large models.
#
# ## 3. Train
#
# *Time to here: 14 minutes.*
#
# A step: take some pieces of text, compute the loss, go back for the gradients, move all weights a little downhill. The
# curve grows while the cell runs. (The losses differ a little from machine to machine: sums are made in another order.)

# %%
ll.lessons.predict(
    "Will the loss be half of what it was within 80 steps?",
    ["within 10", "yes, but later", "no"], "yes, but later",
    "See where the curve comes below 3.8.",
)

# %% tags=["nbval-ignore-output"]
with ll.widgets.loss_curve(STEPS) as curve:
    losses = training.train(student, ids, STEPS, on_step=curve.add)

# %%
first, last = np.mean(losses[:5]), np.mean(losses[-5:])
assert last < first - 2, "the loss must fall"
print("loss at first near 7.6:", bool(abs(losses[0] - np.log(2048)) < 0.5))
print("it fell by more than 2:", bool(first - last > 2))

# %% [markdown]
# First the model learns which tokens are frequent, then which follow each other. The curve bends there.
#
# ## 4. Into a file, and smaller
#
# *Time to here: 19 minutes.*
#
# PyTorch's users keep models in folders. We write one, as the library transformers does. `llmlite convert FOLDER FILE`
# makes a GGUF file of it; this is the same from Python.

# %%
import tempfile
from pathlib import Path
from llmlite.huggingface import convert_folder

place = Path(tempfile.mkdtemp())
training.save(student, teacher, place / "student")
convert_folder(place / "student", place / "student.gguf", file_type="F32")
print(sorted(path.name for path in (place / "student").iterdir()))

# %% [markdown]
# Was anything lost? Both programs read the same tokens, and the scores must agree.

# %%
deployed = ll.load(place / "student.gguf", kv_dtype="f32")
with torch.no_grad():
    theirs = student(torch.from_numpy(ids[None, :64]))[0].numpy()
ours = deployed.logits(ids[:64].tolist())
assert np.abs(ours - theirs).max() < 1e-4, "the exported model must be the trained one"
print("largest difference below 0.0001:", bool(np.abs(ours - theirs).max() < 1e-4))

# %% tags=["nbval-ignore-output"]
ll.quantize_file(place / "student.gguf", place / "student-q8.gguf", "Q8_0")
small = ll.load(place / "student-q8.gguf")
for path in sorted(place.glob("*.gguf")):
    print(path.name, path.stat().st_size, "bytes")
print("Once upon a time" + small.generate("Once upon a time", max_tokens=50, temperature=0.7, seed=3))

# %% [markdown]
# Words, names, almost sentences, after some seconds. With `STEPS = 600` it becomes a tale of sorts.
#
# Why not train with llmlite, then? It refuses.

# %%
import subprocess
import sys

asked = subprocess.run([sys.executable, "-m", "llmlite", "train"], capture_output=True, text=True)
print("exit code", asked.returncode, "|", "invalid choice" in asked.stderr)

# %% [markdown]
# There is no such command, and not by chance. A step moves a weight by a tiny amount. In a quantized file, a weight can
# only jump from level to level. Take a typical step of training, one thousandth of a weight's usual size, and quantize
# before and after.

# %%
w = student.layers[0].mlp["down_proj"].weight.detach().numpy()
step = 1e-3 * w.std() * np.sign(np.random.default_rng(0).normal(size=w.shape)).astype(np.float32)
before, after = (ll.QuantTensor.quantize(x, "Q4_0", "w").dequantize() for x in (w, w + step))
share = np.mean(np.abs(after - before) < 0.02 * np.abs(before).max())
print("most weights stay on their level:", bool(share > 0.9))

# %% [markdown]
# So the framework keeps weights in 16 or 32 bits. Beside each weight it keeps the gradient and, for the **optimizer**
# (the rule that moves the weights; *Adam* is the usual one), two averages of earlier gradients.
#
# llmlite and llama.cpp keep none of these. Both know a list of architectures, and run finished files of them. (llama.cpp can
# also fine-tune such a model in float32. It can't train one that nobody has compiled into it, as PyTorch just did.)
#
# **Exercise 3.** Training with Adam in float32 keeps four numbers of 4 bytes for each weight. Running in Q4_0 keeps 4.5
# bits. How many times as much memory does training take, for the weights alone?

# %% tags=["exercise"]
# solution: 4 * 4 bytes are 128 bits
times = 4 * 4 * 8 / 4.5
# end

# %% tags=["check"]
ll.lessons.check("times as much", times, 128 / 4.5, rtol=1e-2, hint="bits over bits: 4 numbers of 32 bits each")

# %% [markdown]
# ## Recap
#
# - The **loss** is minus the logarithm of the probability of what really came. Equal chances give log of the vocabulary.
# - The **gradient** says how the loss changes with a weight. Automatic differentiation finds all of them at once.
# - Train in a framework; export, convert and quantize; run anywhere. Check that the logits are the same.
# - A quantized weight can't take small steps. That, and 28 times the memory, is why training happens elsewhere.
#
# **Words.** *automatic differentiation*: finding all gradients by going back through a calculation. *convert*: write a
# model into another file format. *gradient*: how much the loss changes when a weight does. *loss*: how bad the model's
# scores are; lower is better. *optimizer*: the rule by which gradients move weights. *training*: lowering the loss, step
# by step.
