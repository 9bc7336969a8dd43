# %% [markdown]
# # Anatomy of a GGUF file
#
# *About 20 minutes. Running every cell takes a few seconds.*
#
# A language model that you download is one file. Inside are numbers: millions of them, the *weights*. Before them comes
# everything that a program must know to use them. The format is called **GGUF**. In this lesson you take
# such a file apart, byte by byte, and write the beginning of a reader.
#
# **Afterwards you can**
#
# - name the four parts of a GGUF file and say how big each one is;
# - read numbers out of bytes with Python alone;
# - compute where a tensor is in the file, and how many bytes it takes;
# - say what a reader must check before it believes a file.

# %% [markdown] tags=["instructor"]
# > **For the instructor.** Minutes: section 1 three, section 2 with the map five, exercise 1 four, section 3 with
# > exercise 2 five, section 4 three.
# >
# > *Talking point.* Reading this file runs nothing. Earlier formats could carry code that ran when a file was loaded.
# > A GGUF file of a model that chats does carry one small program, its chat template: section 4 shows the sandbox.
# >
# > *Likely question:* "Why not a JSON header?" The older `safetensors` has one. GGUF's header can be read without
# > any library, in any language, and weights start at a multiple of 32 so that they can be mapped into memory as they are.

# %%
import llmlite as ll

# %% [markdown]
# ## 1. From outside
#
# `tales` is the small model that comes with llmlite. Opening its file reads only its first part, which says what is where.

# %%
MODEL = "tales"  # or "smollm2" (llmlite pull smollm2), or a path; numbers in the text are of "tales"

# %%
path = ll.model_path(MODEL)
file = ll.gguf.read(path)
print(file.file_size, "bytes,", len(file.metadata), "entries of metadata,", len(file.tensors), "tensors")

# %% [markdown]
# There are two kinds of things in it. **Metadata** are named values: which kind of model it is (its *architecture*), its
# sizes, the pieces of text that it knows. **Tensors** are named arrays of weights. (What a block or an embedding is comes in
# lesson 03b. Here they are only names.)

# %%
kind = file.metadata["general.architecture"]
own = [f"{kind}.block_count", f"{kind}.embedding_length"]
for key in ["general.architecture", *own, "tokenizer.ggml.tokens"]:
    print(f"{key:26}", file.metadata[key])

# %%
for name in list(file.tensors)[:4]:
    print(f"{name:24}", file.tensors[name].type.name, file.tensors[name].shape)

# %%
ll.lessons.predict(
    "What share of the file's bytes are weights?",
    ["half", "nine tenths", "more than 95 in 100"], "more than 95 in 100",
    "The next cell draws how long each part is.",
)

# %%
from llmlite.lessons.file_layout import ByteMap

ll.plots.show(ll.plots.file_layout.regions(ByteMap(file)))

# %% [markdown] tags=["answer"]
# Mind the scale: each step to the right is ten times as much. The weights take 8.9 million bytes, all other parts together
# 63 thousand: more than 99 in 100 bytes are weights. The header is 24 bytes. In a model a thousand times larger the share
# of the weights is larger still.

# %% [markdown]
# That's why a program can open a file of many gigabytes at once. It reads the small parts at the beginning and leaves the
# weights where they are. The file is **mapped**: the system shows it as if it were memory, and reads a piece when a program
# first touches it.
#
# ## 2. Byte by byte
#
# *Time to here: 4 minutes.*
#
# Now from inside. Each button below is one byte, written in hexadecimal: two digits, from `00` to `ff`. The colour says
# which part of the file it belongs to.
#
# Click a byte: the field that it belongs to is outlined, and you see what it says. *next field* moves on. With
# *Byte* you can go to any place. (By keyboard: Tab moves on, the space bar presses.)

# %%
ll.lessons.predict(
    "The number of tensors is stored in eight bytes, 8 to 15. It is small. At which end of "
    "the eight will you find it?",
    ["at the beginning", "at the end"], "at the beginning",
    "Look at byte 8 on the map below, and at the seven after it.",
)

# %%
ll.widgets.byte_map(file)

# %% [markdown] tags=["answer"]
# At the beginning. In the bundled model, byte 8 is `2f`, which is 2 · 16 + 15 = 47, and seven bytes of zero follow. The
# small end comes first: this order is called **little-endian**. Nearly all processors of today keep numbers in memory
# this way.

# %% [markdown]
# Three things to find on the map:
#
# - a text has no end mark: its length comes before it, in 8 bytes;
# - before each value comes its type: 4 means a whole number in 4 bytes, 8 means a text, 9 an array;
# - choose the region *tensor list*: for every tensor there is a name, its dimensions, a type and an **offset**.
#
# **Exercise 1.** Read the header yourself. `struct.unpack("<I", data[4:8])` makes a number of four bytes: `<` is
# little-endian, `I` a whole number in 4 bytes. `q` is one in 8 bytes. The result is a tuple, even if it holds one number
# only, so take its first entry with `[0]`. The header is: 4 letters, the version (4 bytes), the number of tensors (8),
# the number of metadata entries (8).

# %%
import struct

data = path.read_bytes()

# %% tags=["exercise"]
def header(data):
    """Return magic (bytes), version, number of tensors, number of entries."""
    # solution: data[:4] is the magic; the other three are one struct.unpack each, or one with "<Iqq"
    version, n_tensors, n_kv = struct.unpack("<Iqq", data[4:24])
    return data[:4], version, n_tensors, n_kv
    # end

# %% tags=["check"]
ll.lessons.check(
    "header", lambda: list(header(data)), [b"GGUF", 3, len(file.tensors), len(file.metadata)],
    hint="bytes 0-3, 4-7, 8-15 and 16-23",
)

# %% [markdown]
# You have just read the header of a model file with two lines. llmlite's own reader does the same, with checks:
# `llmlite/gguf/parse.py`.
#
# ## 3. Where is a tensor?
#
# *Time to here: 13 minutes.*
#
# The tensor list gives an *offset* for each tensor. It counts from where the weights begin, not from the start of the
# file. The weights begin at the first multiple of 32 after the list. (A file may name a number other than 32; this one
# doesn't.) The bytes between are padding.
#
# How long is a tensor? Its number of weights times the bytes per weight. `F16` takes 2 bytes per weight, `F32` takes 4.
#
# **Exercise 2.** The list of this file ends at the byte `end`. Where do the weights begin? And how many bytes does
# `blk.0.ffn_down.weight` take, with the shape below and 2 bytes for each weight?

# %%
byte_map = ByteMap(file)
listed = [r for r in byte_map.regions if r.name == "tensor list"][0]
end = listed.offset + listed.n_bytes
shape = file.tensors["blk.0.ffn_down.weight"].shape
print("end:", end, " ffn_down:", file.tensors["blk.0.ffn_down.weight"].type.name, shape)

# %% tags=["exercise"]
# solution: round up: add 31, divide by 32 without rest, multiply by 32; rows x columns weights of 2 bytes
start = (end + 31) // 32 * 32
n_bytes = shape[0] * shape[1] * 2
# end

# %% tags=["check"]
ll.lessons.check("start of the weights", start, file.data_offset, hint="the first multiple of 32 that is not before `end`")
ll.lessons.check("bytes of ffn_down", n_bytes, 2 * file.tensors["blk.0.ffn_down.weight"].n_elements, hint="rows x columns x 2")

# %% [markdown]
# With these two numbers the weights can be read without any library:

# %%
import numpy as np

place = byte_map.fields[byte_map.named("blk.0.ffn_down.weight: data")].offset
tensor = file.tensors["blk.0.ffn_down.weight"]
if tensor.type.name == "F16":
    weights = np.frombuffer(data, dtype="<f2", count=tensor.n_elements, offset=place)
    print("equal:", bool((weights.reshape(tensor.shape) == tensor.dequantize()).all()))
else:
    print(f"{tensor.type.name}: not plain numbers. The next lesson unpacks them.")

# %% [markdown]
# In an F16 file they are equal, to the last bit: there is no more to it. How weights are stored in fewer bits is the next
# lesson.
#
# ## 4. A file that lies
#
# *Time to here: 17 minutes.*
#
# Files come from strangers. What if one says that it holds a billion billion tensors? We change one byte of the header,
# number 15, so that the number of tensors becomes enormous.

# %%
ll.lessons.predict(
    "What should a good reader do with such a file?",
    ["ask for the memory", "read on until the bytes end", "refuse it"], "refuse it",
    "A careless reader asks for the memory, and that's the end of your notebook. See below "
    "what llmlite says.",
)

# %%
liar = bytearray(data)
liar[15] = 0x10
try:
    ll.gguf.from_bytes(bytes(liar), "liar.gguf")
except ll.GGUFError as error:
    print(error)

# %% [markdown]
# It names the field, where it is, what it expected and what it found. And it didn't try to read them first: no model has
# so many tensors, and the file has no room for them. So the number can't be true.
#
# One thing in such files is a program: the **chat template** of a model that was trained to chat, kept in the metadata.
# It is written in a small language, Jinja, and turns messages into the text that the model reads. So it runs in a
# sandbox. Here is a template that tries to reach Python's insides.

# %%
from llmlite import chat

try:
    template = chat.ChatTemplate("{{ messages.__class__.__mro__ }}")
    print(template.render([{"role": "user", "content": "hi"}]))
except ll.LlmliteError as error:
    print("refused:", error)

# %% [markdown]
# **Exercise 3.** Change a byte yourself, so that the reader complains about the *version*. Which byte, and which value?
# Versions 1, 2 and 3 are known.

# %% tags=["exercise"]
# solution: the version is in the bytes 4 to 7, the small end first
where, value = 4, 99
# end

# %% tags=["check"]
def complaint(where, value):
    try:
        return ll.gguf.from_bytes(data[:where] + bytes([value]) + data[where + 1:]) and "nothing wrong"
    except ll.GGUFError as error:
        return error.field
ll.lessons.check("a complaint about", lambda: complaint(where, value), "version", hint="byte 4, any value but 1, 2 and 3")

# %% [markdown]
# ## Recap
#
# - A GGUF file is a **header**, **metadata**, a **list of tensors** and the **weights**, in this order.
# - The header's 24 bytes say how many entries and tensors follow.
# - Numbers are little-endian. The length of a text or an array comes before it.
# - Weights start at a multiple of 32, so a mapped file's can be used as they are.
# - A reader believes no number before it has checked it against the bytes that are there.
#
# The same from the command line: `llmlite show tales`. The package's own map is `file.fields()` in
# `llmlite/gguf/fields.py`.
#
# **Words.** *byte*: eight bits, a number from 0 to 255. *GGUF*: the file format of llama.cpp, also used by others.
# *hexadecimal*: numbers written with 16 digits, 0 to 9 and a to f. *little-endian*: the small end of a number first.
# *mapped*: shown by the system as if it were memory; a piece of the file is read when it is first touched.
# *metadata*: named values before the weights. *offset*: distance in bytes from a starting point. *padding*: bytes that
# only fill up. *tensor*: an array of numbers with a name. *weight*: one of the numbers that a model has learned.
