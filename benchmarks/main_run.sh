#!/usr/bin/env bash
# The main comparison on a quiet machine: SmolLM2 with every backend that can be had. Samples, tables (text and
# Markdown) and pictures go to docs/measurements/smollm2/, the page with everything in it to results/.
#
#   benchmarks/main_run.sh                                  8 minutes, TIME=480
#   TIME=2700 PROMPTS=64,512 DEPTHS=1,512,2048 GEN=128 benchmarks/main_run.sh     everything, 45 minutes
#   TIME=120 OUT=/tmp/try BACKENDS=llmlite,torch-f32 benchmarks/main_run.sh       a trial
#   ENVS="xllamacpp openvino ctranslate2 tensorflow transformers" benchmarks/main_run.sh   makes them first
#
# Peers come from this environment or from those of `llmlite bench env create NAME`, in LLMLITE_CACHE.
# A backend that did not fit in TIME is left out, with the reason in the tables; the exit code is then 1.
# `make figure` draws README's figure from the samples.
set -eu
cd "$(dirname "$0")/.."
PY=${PY:-.venv/bin/python}
TIME=${TIME:-480}
OUT=${OUT:-docs/measurements/smollm2}
REPORT=${REPORT:-results/smollm2.html}
TYPES=${TYPES:-Q8_0,Q4_0}
PROMPTS=${PROMPTS:-64,256}
DEPTHS=${DEPTHS:-1,512}
GEN=${GEN:-32}
BACKENDS=${BACKENDS:-llmlite,llamacpp,xllamacpp,torch-f32,torch-bf16,torch-compile,torch-int8,torch-int4,transformers,openvino,ctranslate2,tensorflow-hub}
ENVS=${ENVS-}

for name in $ENVS; do
    "$PY" -m llmlite bench env create "$name"
done
"$PY" -m llmlite pull smollm2
mkdir -p "$OUT" "$(dirname "$REPORT")"
code=0
"$PY" -m llmlite compare smollm2 --types "$TYPES" --backends "$BACKENDS" --time "$TIME" \
    --prompts "$PROMPTS" --depths "$DEPTHS" --gen "$GEN" -o "$OUT" --report "$REPORT" || code=$?
if [ "${ADVICE-}" ]; then
    "$PY" -m llmlite advise --check tales:Q8_0,smollm2:Q4_0,smollm2:Q8_0 | tee "$OUT/advice.txt" || true
fi
echo "main run: exit code $code of compare; the first line of $OUT/comparison.md says how quiet it was"
exit "$code"
