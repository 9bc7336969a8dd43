"""Every kernel by name, with its parameters, for the recorder; declared without numba.

A declaration is the only place that names a kernel's file and its parameters in order. `Recorder` passes
arguments by these names, and a wrong name fails during recording; `jit` compares them with the body when it
compiles. The body is in `llmlite/engine/kernels/<module>.py`, under the kernel's own name.
"""

from __future__ import annotations

from llmlite.description.layers import Attention
from llmlite.engine import contract
from llmlite.engine.contract import ATTENTION_FORMS
from llmlite.engine.jit import Kernel, declare

# ---- matrices: one of each for every family (engine/families.py) -------------------------------------------

PLAIN_MATVEC = "rows w x out n_rows width"
PLAIN_MATMUL = "rows w x out n_rows width scratch scratch_bytes"
MATVEC = "rows w q mixed d sums out n_rows width"
MATMUL_FEW = "rows w q mixed d sums out n_rows width scratch scratch_bytes"
MATMUL = " ".join(contract.MATMUL._fields)  # fields of its record
# tiles of bytes (AMX); config: an array that `amx.config` makes
MATMUL_TILES = "rows unpack block config w row_bytes q d sums out n_rows width zero sub scratch scratch_bytes"
EMBED = "w out width"

# ---- rows --------------------------------------------------------------------------------------------------

RMS_NORM = declare("basic", "rms_norm", "rows x gain out width parts eps number")
RMS_NORM_PLAIN = declare("basic", "rms_norm_plain", "rows x out width parts eps number")
LAYER_NORM = declare("basic", "layer_norm", "rows x gain bias out width parts eps number")
POSITIONS = declare("basic", "positions", "table out width")
TOKEN_TYPES = declare("basic", "token_types", "table out width")
ADD = declare("basic", "add", "rows a b out width")
ADD_ROW = declare("basic", "add_row", "rows a row out width")
SCALE = declare("basic", "scale", "rows x out width factor")
SOFTCAP = declare("basic", "softcap", "rows x out width cap")
GATE = declare("basic", "gate", "rows x by out width")
GATE_BY_ONE = declare("basic", "gate_by_one", "rows x by out width")
COLUMNS = declare("basic", "columns", "rows x out parts stride start width")
JOIN = declare("basic", "join", "rows a b out parts a_width b_width b_parts")
TAKE_OUTPUTS = declare("basic", "take_outputs", "x out width")
ROPE = declare("basic", "rope", "x out table n_head head_size rope_dim distance")
TEMPERATURE = declare("basic", "temperature", "x out table width")
QUANTIZE = declare("basic", "quantize", "rows x q d sums32 sums16 offsets32 offsets16 width number")
QUANTIZE_MIXED = declare(
    "basic", "quantize_mixed", "rows x q d sums32 sums16 offsets32 offsets16 mixed width number"
)
READ_ALL = declare("basic", "read_all", "data n_bytes out")

ACTIVATIONS: dict[str, Kernel] = {
    kind: declare("activations", kind, "rows x out width") for kind in ("silu", "gelu", "gelu_erf", "relu2")
}
GATED_ACTIVATIONS: dict[str, Kernel] = {
    kind: declare("activations", f"{kind}_mul", "rows x up out width")
    for kind in ("silu", "gelu", "gelu_erf", "relu2", "swiglu_oai")
}

KV_KINDS = ("f16", "f32", "q8_0")  # the names in `kv_cache.DTYPES`

# ---- attention ---------------------------------------------------------------------------------------------

STORE = {kv: declare("cache", f"store_{kv}", "k v layer n_head_kv key_size value_size") for kv in KV_KINDS}
_FORMS = {size: f"_{size}" for size in ATTENTION_FORMS} | {0: ""}
ATTENTION = {
    (kv, size): declare("attention", f"attention_{kv}{form}", "spec")
    for kv in KV_KINDS
    for size, form in _FORMS.items()
}
ATTENTION_IN_KEYS = {kv: declare("attention", f"attention_{kv}_in_keys", "spec") for kv in KV_KINDS}
MERGE_PARTS = declare("attention", "merge_parts", "spec")


def attention(kv: str, spec: Attention) -> Kernel:
    """Return the kernel for a kind of cache: the one for the head size, or the one for any size."""
    if spec.values_in_keys:
        return ATTENTION_IN_KEYS[kv]
    size = spec.key_size if spec.key_size == spec.value_size else 0
    return ATTENTION[kv, size if size in ATTENTION_FORMS else 0]


# ---- a matrix for each head --------------------------------------------------------------------------------

SPLIT_HEADS = declare("heads", "split_heads", "rows x out n_head width plane")
MERGE_HEADS = declare("heads", "merge_heads", "rows x out n_head width plane")
EACH_HEAD = declare("heads", "each_head", None)  # a routine: its record holds another kernel's

# ---- recurrent mixers --------------------------------------------------------------------------------------

MULTIPLY = declare("recurrent", "multiply", "rows a b out width")
MULTIPLY_ROW = declare("recurrent", "multiply_row", "rows x row out width")
SCAN = declare("recurrent", "scan", "x dt a d dt_bias out layer n_head head_size n_group state_size")
SCAN_COLUMNS = declare("recurrent", "scan_columns", "x dt db a d out layer width rank state_size")
DELTA_RULE = declare(
    "recurrent",
    "delta_rule",
    "x qk beta alpha a dt_bias out layer n_head n_head_k head_size tiled scale",
)
PROJECT = declare("recurrent", "project", "x x_width w bias out n_columns width")
CONVOLVE = declare("recurrent", "convolve", "x taps bias out layer n_taps width")

# ---- experts -----------------------------------------------------------------------------------------------

_ROUTE = "ids weights n_expert n_used n_group n_group_used factor"
ROUTE_SOFTMAX = declare("experts", "route_softmax", f"rows scores {_ROUTE}")
ROUTE_SHARE = declare("experts", "route_share", f"rows scores {_ROUTE}")
ROUTE_SIGMOID = declare("experts", "route_sigmoid", f"rows scores bias {_ROUTE} normalized")
SORT_ROWS = declare("experts", "sort_rows", "rows ids counts token_of slot_of n_expert n_used")
SPREAD = declare("experts", "spread", "slots x token_of out width")
GATHER = declare("experts", "gather", "rows x slot_of weights out width n_used")
ADD_EXPERT_ROWS = declare("experts", "add_expert_rows", "x bias counts out width n_expert")
SCALE_EXPERT_ROWS = declare("experts", "scale_expert_rows", "x factors counts out width n_expert")
EACH_EXPERT = declare("experts", "each_expert", None)  # a routine: its record holds another kernel's

# ---- measuring ---------------------------------------------------------------------------------------------

PEAK = {kind: declare("peak", f"peak_{kind}", "numbers repeats out") for kind in ("f32", "int8")}
SCALAR_MATVEC = {kind: declare("scalar", f"scalar_{kind}", PLAIN_MATVEC) for kind in ("q4_0", "q8_0", "q4_k")}

# ---- the team ----------------------------------------------------------------------------------------------

RUN, WORK, STOP = (declare("team", name, None) for name in ("run", "work", "stop"))
