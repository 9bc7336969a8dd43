#!/usr/bin/env bash
# The main comparison on a quiet machine: SmolLM2 with every backend that can be had; its results go to
# docs/measurements/ and its pictures to docs/figures/.
#
#   benchmarks/main_run.sh                 about 50 minutes, most of it TIME
#   TIME=200 OUT=/tmp/try BACKENDS=llmlite,xllamacpp,torch-f32 benchmarks/main_run.sh    a trial
#
# Peers come from this environment or from `llmlite bench env create NAME`; ENVS names those to make first.
set -eu
cd "$(dirname "$0")/.."
PY=${PY:-.venv/bin/python}
TIME=${TIME:-2700}
OUT=${OUT:-docs/measurements}
BACKENDS=${BACKENDS:-all}
ENVS=${ENVS-}

for name in $ENVS; do
    "$PY" -m llmlite bench env create "$name"
done
"$PY" -m llmlite pull smollm2
mkdir -p "$OUT"
code=0
"$PY" -m llmlite compare smollm2 --backends "$BACKENDS" --depths 1,512,2048 --time "$TIME" \
    -o "$OUT" --report "$OUT/report.html" || code=$?
"$PY" -m llmlite advise --check tales:Q8_0,smollm2:Q4_0,smollm2:Q8_0 | tee "$OUT/advice.txt" || true
echo "main run: exit code $code of compare; look at the canary in $OUT/report.html before keeping it"
exit "$code"
