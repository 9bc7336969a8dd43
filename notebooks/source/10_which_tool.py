# %% [markdown]
# # Which tool for which job?
#
# *About 15 minutes. Running every cell takes about ten seconds.*
#
# This whole kit began with an article that sets llama.cpp beside PyTorch and TensorFlow: which tool for which job? An
# article makes claims. Here every claim has a measurement, with its date, and a command that measures it again.
#
# **Afterwards you can**
#
# - say for each claim whether it was measured, and with what result;
# - tell "it doesn't hold" from "it wasn't measured";
# - choose a tool by a rule, and name the rule's exceptions.

# %% [markdown] tags=["instructor"]
# > **For the instructor.** Minutes: section 1 five, section 2 three, section 3 with the exercises six.
# >
# > *Talking point.* Let people vote before each reveal. The rows where the room is wrong are worth the time.
# >
# > *Likely question:* "Who wins?" Nobody. The lesson before this one used both, one after the other.

# %%
import llmlite as ll

# %% [markdown]
# ## 1. Predict each row
#
# The measurements below come with llmlite. They are from one machine and one day; yours will differ.

# %%
from llmlite.bench.article import Claims
from llmlite.lessons import choosing_tools

shipped = Claims.sample()
print(choosing_tools.taken(shipped))

# %% [markdown]
# For each claim: does it hold, only partly, or could it not be measured? Click before you read on.

# %%
ll.lessons.predict(
    "A quantized model runs on ordinary hardware, without a GPU.",
    *choosing_tools.predicted(shipped, "hardware"),
)

# %%
ll.lessons.predict(
    "The engine has few dependencies and is quick to set up; the frameworks are large.",
    *choosing_tools.predicted(shipped, "installation"),
)

# %%
ll.lessons.predict(
    "Everything stays on the machine: no data leaves it.",
    *choosing_tools.predicted(shipped, "privacy"),
)

# %%
ll.lessons.predict(
    "The frameworks train models; the engine only runs them.",
    *choosing_tools.predicted(shipped, "training"),
)

# %%
ll.lessons.predict(
    "One file format serves many engines, types and architectures.",
    *choosing_tools.predicted(shipped, "formats"),
)

# %% [markdown]
# Here are all of them.

# %%
columns = ["claim", "in full", "verdict"]
ll.plots.show(ll.plots.Table(
    heading="The article's claims", columns=columns, rows=choosing_tools.rows(shipped),
    alt="Each claim of the article with its verdict, as measured for the shipped sample"))

# %% [markdown]
# Mind the last rows. The size of a community, or the speed on a phone, can't be measured on this machine. "Not measured"
# doesn't mean "wrong", and it doesn't mean "right": it means that we don't know.
#
# **Exercise 1.** How many claims have each verdict? Make a dictionary from verdict to number.

# %% tags=["exercise"]
# solution: go through shipped; each has .verdict; collections.Counter counts
from collections import Counter
counts = dict(Counter(each.verdict for each in shipped))
# end

# %% tags=["check"]
verdicts = [each.verdict for each in shipped]
ll.lessons.check("claims by verdict", counts, {name: verdicts.count(name) for name in set(verdicts)}, hint="for each in shipped: each.verdict")

# %% [markdown]
# ## 2. On this machine
#
# *Time to here: 8 minutes.*
#
# The first claim takes some seconds to measure. The others take longer: `llmlite claims` in a terminal measures all of
# them, `llmlite claims --only privacy` one.

# %% tags=["nbval-ignore-output"]
here = ll.bench.claims(only=choosing_tools.QUICK)
print(here["hardware"].verdict, "|", here["hardware"].figure)

# %% [markdown]
# Larger or smaller than the shipped figure? Both are right: they are of two machines, or of one
# machine at two times. That is why a figure without its machine says little.
#
# ## 3. A rule, and its exceptions
#
# *Time to here: 10 minutes.*
#
# - **Weights change** (training, fine-tuning, an invention of your own): a framework.
# - **A finished language model** has to answer, on a processor that people have, with little memory: the engine.
# - **Both**: train in one, deploy with the other. Lesson 09 did.
#
# **Exercise 2.** Write the rule: `"engine"` or `"framework"`. `known` says whether the engine knows the architecture,
# `cpu` whether there is no GPU.

# %% tags=["exercise"]
def choose(trains, known, cpu):
    # solution: the engine needs all three: weights that stay, an architecture it knows, and no GPU; else a framework
    return "engine" if known and cpu and not trains else "framework"
    # end

# %% tags=["check"]
cases = [(t, k, c) for t in (False, True) for k in (False, True) for c in (False, True)]
wanted = [choosing_tools.tool(trains=t, known_architecture=k, on_cpu=c) for t, k, c in cases]
ll.lessons.check("the rule, in all eight cases", lambda: [choose(*case) for case in cases], wanted, hint="how many of the eight cases are the engine's?")

# %% [markdown]
# The exceptions:
#
# - llama.cpp also uses GPUs, and well. llmlite doesn't; that GPUs were left out here says nothing about them.
# - A framework can run a finished model, too, and for many requests at once on a GPU it is often the right tool.
# - A model that isn't a language model (pictures, time series, control) is a framework's job, trained or not.
# - llama.cpp can fine-tune a model it knows, in float32.
#
# ## Recap
#
# - A claim is worth its measurement: a figure, a machine, a date, a command.
# - **Not measured** is a result of its own.
# - Train in a framework, run in an engine; know the exceptions.
#
# **Words.** *claim*: a sentence that can be checked. *engine*: a program that only runs models. *framework*: a library to
# build and train models. *verdict*: what a measurement says about a claim.
