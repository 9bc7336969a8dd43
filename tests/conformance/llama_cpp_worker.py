"""Runs a model in llama.cpp, in a process of its own, and saves what it computed.

    python llama_cpp_worker.py MODEL.gguf IDS.npy OUT.npz [logits|states|all [ADAPTER.gguf SCALE ...]]

IDS.npy: int32 (T,), or (N, T) for N texts of T tokens that know nothing of each other.
OUT.npz: "logits" float32 (T, V) or (N, T, V), and for a single text each intermediate of the graph under its
name, after the last operation that gave it. With "states" the last states, (T, D), in place of logits, of an
encoder. With "all" every named float32 result is kept, not only those that most models have. Keys and values
in F32, no flash attention, no repacking of weights.
"""

import ctypes
import os
import sys

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as api

N_THREADS = 2
GGML_TYPE_F32 = 0
WANTED = ("embd", "attn_norm", "Qcur", "Kcur", "Vcur", "kq_soft_max", "kqv_out", "attn_out", "ffn_inp",
          "ffn_norm", "ffn_gate", "ffn_up", "ffn_swiglu", "ffn_out", "l_out", "result_norm")  # fmt: skip

ggml = ctypes.CDLL(os.path.join(os.path.dirname(llama_cpp.__file__), "lib", "libggml-base.so"))
for function, result in (("ggml_get_name", ctypes.c_char_p), ("ggml_get_data_f32", ctypes.c_void_p)):
    getattr(ggml, function).restype = result
    getattr(ggml, function).argtypes = [ctypes.c_void_p]
ggml.ggml_is_contiguous.restype = ctypes.c_bool
ggml.ggml_is_contiguous.argtypes = [ctypes.c_void_p]

kept: dict[str, np.ndarray] = {}
every = False  # name, not only those in WANTED


@ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
def keep(tensor, ask, _):
    """llama.cpp asks for each tensor whether we want it, then shows it to us when it is computed."""
    name = ggml.ggml_get_name(tensor).decode()
    wanted = name.partition("-")[0] in WANTED or (every and not name.startswith(("node_", "leaf_")))
    wanted &= " " not in name and ggml.ggml_is_contiguous(tensor)
    wanted &= ctypes.c_int32.from_address(tensor).value == GGML_TYPE_F32
    if wanted and not ask:
        # struct ggml_tensor: type (4 bytes), padding, buffer pointer (8), then int64 ne[4]
        ne = (ctypes.c_int64 * 4).from_address(tensor + 16)
        shape = list(reversed(ne))
        while len(shape) > 2 and shape[0] == 1:
            shape = shape[1:]
        data = (ctypes.c_float * int(np.prod(shape))).from_address(ggml.ggml_get_data_f32(tensor))
        kept[name] = np.array(data, np.float32).reshape(shape)
    return wanted or not ask  # after the data was shown: True to go on


@api.llama_log_callback
def silent(_level, _text, _data):
    """Its progress is not ours to print."""


def load(model_path: str) -> int:
    """The model's handle."""
    api.llama_backend_init()
    api.llama_log_set(silent, ctypes.c_void_p(0))
    model_options = api.llama_model_default_params()
    model_options.use_extra_bufts = False  # no repacking: the plain kernels
    model = api.llama_model_load_from_file(model_path.encode(), model_options)
    if not model:
        sys.exit(f"llama.cpp cannot load {model_path}")
    return model


def adapt(model: int, context: int, adapters: list[tuple[str, float]]) -> None:
    """Apply LoRA adapters, (path, scale) each."""
    handles = [api.llama_adapter_lora_init(model, path.encode()) for path, _ in adapters]
    if not all(handles):
        sys.exit("llama.cpp refuses an adapter")
    n = len(adapters)
    scales = (ctypes.c_float * n)(*(scale for _, scale in adapters))
    if api.llama_set_adapters_lora(context, (api.llama_adapter_lora_p_ctypes * n)(*handles), n, scales) != 0:
        sys.exit("llama.cpp applies no adapters")


def logits_of(context: int, ids: list[int], n_vocab: int) -> np.ndarray:
    """Logits (T, V) of one text, from an empty cache."""
    api.llama_memory_clear(api.llama_get_memory(context), True)
    batch = api.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, i, 1, 0
        batch.logits[i] = True
    kept.clear()
    if api.llama_decode(context, batch) != 0:
        sys.exit("llama_decode failed")
    api.llama_batch_free(batch)
    return np.ctypeslib.as_array(api.llama_get_logits(context), (len(ids), n_vocab)).copy()


def states_of(context: int, ids: list[int], n_embd: int) -> np.ndarray:
    """The last states (T, D) of one text."""
    batch = api.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, i, 1, 0
        batch.logits[i] = True
    if api.llama_encode(context, batch) != 0:
        sys.exit("llama_encode failed")
    api.llama_batch_free(batch)
    return np.ctypeslib.as_array(api.llama_get_embeddings(context), (len(ids), n_embd)).copy()


def main(model_path: str, ids_path: str, out_path: str, what: str = "logits", *adapters: str) -> None:
    global every
    every = what == "all"
    ids = np.load(ids_path)
    model = load(model_path)
    options = api.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = max(256, ids.shape[-1])
    options.n_threads = options.n_threads_batch = N_THREADS
    options.type_k = options.type_v = GGML_TYPE_F32
    options.flash_attn_type = 0  # off
    if ids.ndim == 1:
        options.cb_eval = ctypes.cast(keep, type(options.cb_eval))
    if what == "states":
        options.embeddings, options.pooling_type = True, 0  # none
        context = api.llama_init_from_model(model, options)
        np.savez(out_path, states=states_of(context, ids.tolist(), api.llama_model_n_embd(model)))
        return
    context = api.llama_init_from_model(model, options)
    if adapters:
        adapt(model, context, list(zip(adapters[::2], map(float, adapters[1::2]))))
    n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    logits = [logits_of(context, text.tolist(), n_vocab) for text in np.atleast_2d(ids)]
    np.savez(out_path, logits=logits[0] if ids.ndim == 1 else np.stack(logits), **kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
