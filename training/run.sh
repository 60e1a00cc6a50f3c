#!/usr/bin/env bash
# Trains, distils and exports a model pair; run again with the same arguments to continue where it stopped.
#
#   training/run.sh tiny     --out DIR                two minutes on a CPU, on a made-up text
#   training/run.sh rehearse --out DIR                the stages of full at toy size: does everything fit together?
#   training/run.sh cpu      --corpus DIR --out DIR   about two hours on two cores
#   training/run.sh full     --corpus DIR --out DIR   one H100-class GPU, in steps of under 10 minutes
#
#   --corpus DIR   folder with tech.train.txt and tech.val.txt, or the same with .xz (tiny, rehearse: its first 4 MB)
#   --minutes N    stop with a checkpoint after about N minutes, exit status 3: run again (full: 8, others: no limit)
#   --device NAME  cpu or cuda (default: cuda for full, cpu for the others)
#   PYTHON         the interpreter (default python3); it needs torch, numpy, tokenizers and gguf
#
# Results: DIR/gsd-target-q8_0.gguf, DIR/gsd-draft-q8_0.gguf, DIR/eval.json; full: DIR/parts too, files under 16 MB.
# Exit status 77: a Python package is missing, nothing was done.
set -euo pipefail

usage() { sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2; }
fail() { echo "$1" >&2; exit 2; }

mode=${1:-}; shift || true
corpus='' out='' minutes=0 device=cpu
[ "$mode" != full ] || { minutes=8; device=cuda; }
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case $1 in
    --corpus) corpus=$2 ;; --out) out=$2 ;; --minutes) minutes=$2 ;; --device) device=$2 ;; *) usage ;;
  esac
  shift 2
done
case $mode in
  tiny|rehearse) ;;
  cpu|full) [ -n "$corpus" ] || fail "$mode needs --corpus DIR" ;;
  *) usage ;;
esac
[ -n "$out" ] || fail "give --out DIR"

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
for package in torch numpy tokenizers gguf; do
  "$python" -c "import $package" 2>/dev/null || { echo "SKIP: $python has no package $package"; exit 77; }
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
data=$out/data

# stage NAME COMMAND...: runs it once; a command that ends with status 3 wants to be continued.
stage() {
  local name=$1 status=0; shift
  [ ! -e "$out/$name.done" ] || return 0
  echo "== $name"
  "$@" || status=$?
  [ $status != 3 ] || { echo "$name is unfinished: run again to continue"; exit 3; }
  [ $status = 0 ] || exit $status
  touch "$out/$name.done"
}
# limits: what is left of --minutes, as an argument of train.py, distill.py and cache.py.
limits() {
  [ "$minutes" = 0 ] || awk -v m="$minutes" -v s=$SECONDS 'BEGIN { m -= s / 60; print "--minutes", (m > 0.05 ? m : 0.05) }'
}
train() { "$python" "$here/train.py" --data "$data" --device "$device" $(limits) "$@"; }
distill() { "$python" "$here/distill.py" --data "$data" --device "$device" $(limits) "$@"; }
grow() { "$python" "$here/grow.py" "$out/core.pt" "$out/grown.pt" --double-width "$@"; }
tokenize() { "$python" "$here/tokenizer.py" --train "$out/corpus/tech.train.txt" --val "$out/corpus/tech.val.txt" --out "$data" "$@"; }
cache() { "$python" "$here/cache.py" --model "$out/target.pt" --data "$data" --device "$device" $(limits) "$@"; }
evaluate() {
  "$python" "$here/evaluate.py" --data "$data" --target "$out/target.pt" --device "$device" --json "$out/eval.json" \
    --draft corpus="$out/draft_corpus.pt" --draft distilled="$out/draft.pt" "$@"
}

unpack() {
  local part file=$out/corpus/tech.train.txt
  mkdir -p "$out/corpus"
  [ -n "$corpus" ] || { "$python" "$here/toy_corpus.py" "$out/corpus"; return; }
  for part in train val; do
    if [ -e "$corpus/tech.$part.txt" ]; then cp "$corpus/tech.$part.txt" "$out/corpus/"
    else xz -dkc "$corpus/tech.$part.txt.xz" > "$out/corpus/tech.$part.txt"; fi
  done
  case $mode in tiny|rehearse) head -c 4000000 "$file" | tr '\n\0' '\0\n' | sed '$d' | tr '\n\0' '\0\n' > "$file.cut" && mv "$file.cut" "$file" ;; esac
}

first_draft() { stage draft_first distill --out "$out/draft_first.pt" "$@"; }
own_texts() { stage own cache --text own --out "$out/own" "$@"; }
# Two drafts with the same start, steps and tokens: one learns the target's logits on the target's own texts (and, with
# --teacher among ARGUMENTS, on the corpus too), the control learns the corpus alone.
second_drafts() {  # STEPS OWN_ROWS CONTROL_ROWS ARGUMENTS...
  local steps=$1 own=$2 control=$3; shift 3
  local common=(--init "$out/draft_first.pt" --steps "$steps" --decay "$((steps * 2 / 3))" --warmup 10 "$@")
  stage draft distill "${common[@]}" --cache "$out/own:$own" --out "$out/draft.pt"
  stage draft_corpus distill "${common[@]}" --mix 0 --rows "$control" --out "$out/draft_corpus.pt"
}
export_pair() {
  local model
  for model in target draft; do
    "$python" "$here/export.py" --model "$out/$model.pt" --tokenizer "$data/tokenizer.json" --format q8_0 \
      --name gsd-$model --out "$out/gsd-$model-q8_0.gguf"
  done
}
split_output() {
  mkdir -p "$out/parts"
  split -b 15000000 -d "$out/gsd-target-q8_0.gguf" "$out/parts/gsd-target-q8_0.gguf."
  cp "$out/gsd-draft-q8_0.gguf" "$out/eval.json" "$out/target.jsonl" "$out/parts/"
  (cd "$out" && sha256sum gsd-*.gguf) > "$out/parts/sha256"
}

stage unpack unpack
small=(--rows 8 --context 128 --val-windows 8)
case $mode in
  tiny)  # The way of cpu.
    stage tokenize tokenize --vocab 1024
    stage core train --preset tiny-core --steps 150 "${small[@]}" --out "$out/core.pt"
    stage grow grow --layers 3
    stage target train --init "$out/grown.pt" --lr 2e-3 --steps 50 --decay 50 "${small[@]}" --out "$out/target.pt"
    first_draft --teacher "$out/core.pt" --init "$out/core.pt" --keep-layers 0 --steps 40 "${small[@]}"
    own_texts --rows 128 --batch 32 --context 128
    second_drafts 60 8 8 "${small[@]}"
    stage eval evaluate --per-kind 4 --prompt 24 --new 40 --val-windows 4
    ;;
  rehearse)  # The way of full.
    stage tokenize tokenize --vocab 1024 --repeat help=2 --repeat math=2
    stage target train --preset tiny-target --steps 60 --decay 30 "${small[@]}" --out "$out/target.pt"
    first_draft --teacher "$out/target.pt" --preset tiny-draft --steps 40 "${small[@]}"
    own_texts --rows 128 --batch 32 --context 128
    second_drafts 60 4 8 --teacher "$out/target.pt" "${small[@]}" --rows 4
    stage eval evaluate --per-kind 4 --prompt 24 --new 40 --val-windows 4
    ;;
  cpu)  # A small dense core, grown without changing what it computes, then trained on; a draft made of two layers of the core.
    stage tokenize tokenize --repeat help=3 --repeat math=3
    stage core train --preset core --steps 1280 --decay 320 --final 0.3 --out "$out/core.pt"
    stage grow grow --layers 12
    stage target train --init "$out/grown.pt" --lr 1.2e-3 --warmup 8 --steps 80 --decay 70 --rows 8 --micro-rows 4 --context 1024 \
      --out "$out/target.pt"
    first_draft --teacher "$out/core.pt" --init "$out/core.pt" --keep-layers 0,5 --lr 2e-3 --warmup 20 --steps 120
    own_texts --rows 1920
    second_drafts 1400 16 4 --context 1024 --micro-rows 16 --lr 2e-3
    stage eval evaluate
    ;;
  full)  # From random weights: 236M tokens for the target, 98M for each draft.
    stage tokenize tokenize --repeat help=2 --repeat math=2
    stage target train --preset target --compile --lr 3e-3 --warmup 100 --steps 3600 --decay 1800 \
      --rows 64 --micro-rows 64 --context 1024 --out "$out/target.pt"
    draft=(--compile --lr 4e-3 --context 1024)
    first_draft --teacher "$out/target.pt" --preset draft --warmup 100 --steps 1500 --rows 32 --micro-rows 32 "${draft[@]}"
    own_texts --rows 40960 --batch 2048
    second_drafts 1500 64 32 --teacher "$out/target.pt" --rows 16 --micro-rows 64 "${draft[@]}"
    stage eval evaluate
    ;;
esac
stage export export_pair
case $mode in full|rehearse) stage split split_output ;; esac
echo "pair: $out/gsd-target-q8_0.gguf $out/gsd-draft-q8_0.gguf; figures: $out/eval.json"
