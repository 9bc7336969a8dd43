#!/usr/bin/env bash
# The main comparison on a quiet machine: SmolLM2 with every available backend. Samples, tables (text and
# Markdown) and pictures go to docs/measurements/smollm2/, the page with all of it to results/.
#
#   benchmarks/main_run.sh                        12 minutes: engines 290 s, frameworks 420 s
#   ENGINES_TIME=1500 FRAMEWORKS_TIME=1200 PROMPTS=64,512 DEPTHS=1,512,2048 GEN=128 benchmarks/main_run.sh
#   ENGINES=llmlite,torch-f32 ENGINES_TIME=120 FRAMEWORKS= OUT=/tmp/try benchmarks/main_run.sh        a trial
#   ENGINES= benchmarks/main_run.sh               the frameworks only
#   ENVS="xllamacpp openvino ctranslate2 ort-genai tensorflow transformers" benchmarks/main_run.sh    makes them first
#
# There are two comparisons, each with llmlite in it, because backends that start slowly would take time
# from the blocks of the others: engines and PyTorch in Q8_0 and Q4_0 (comparison.*), then the backends that
# convert, compile or unpack, in Q8_0 (frameworks/comparison.*). Speeds are compared within one of them only.
# Peers come from this environment or from those of `llmlite bench env create NAME`, in LLMLITE_CACHE.
# A backend that did not fit in TIME is left out, with the reason in the tables; the exit code is then 1.
# `make figure` draws README's figure from the samples.
set -eu
cd "$(dirname "$0")/.."
PY=${PY:-.venv/bin/python}
ENGINES_TIME=${ENGINES_TIME:-290}
FRAMEWORKS_TIME=${FRAMEWORKS_TIME:-420}
OUT=${OUT:-docs/measurements/smollm2}
REPORT=${REPORT:-results/smollm2.html}
TYPES=${TYPES:-Q8_0,Q4_0}
PROMPTS=${PROMPTS:-64,256}
DEPTHS=${DEPTHS:-1,512}
GEN=${GEN:-32}
ENGINES=${ENGINES-llmlite,llamacpp,xllamacpp,torch-f32,torch-bf16,torch-int4,torch-int8}
FRAMEWORKS=${FRAMEWORKS-llmlite,ort-genai,ctranslate2,openvino,transformers,torch-compile,tensorflow-xla,tensorflow-hub}
ENVS=${ENVS-}

for name in $ENVS; do
    "$PY" -m llmlite bench env create "$name"
done
"$PY" -m llmlite pull smollm2
for type in ${TYPES//,/ } Q8_0; do  # files and kernels are made before any clock runs
    "$PY" -m llmlite warmup "smollm2:$type"
done
mkdir -p "$OUT" "$(dirname "$REPORT")"
code=0
if [ "$ENGINES" ]; then
    "$PY" -m llmlite compare smollm2 --types "$TYPES" --backends "$ENGINES" --time "$ENGINES_TIME" \
        --prompts "$PROMPTS" --depths "$DEPTHS" --gen "$GEN" -o "$OUT" --report "$REPORT" || code=$?
fi
if [ "$FRAMEWORKS" ]; then
    "$PY" -m llmlite compare smollm2 --types Q8_0 --backends "$FRAMEWORKS" --time "$FRAMEWORKS_TIME" \
        --prompts 64 --depths 1 --gen 16 --blocks 6 -o "$OUT/frameworks" || code=$?
fi
if [ "${ADVICE-}" ]; then
    "$PY" -m llmlite advise --check tales:Q8_0,smollm2:Q4_0,smollm2:Q8_0 | tee "$OUT/advice.txt" || true
fi
echo "main run: exit code $code of compare; the first line of $OUT/comparison.md says how quiet it was"
exit "$code"
