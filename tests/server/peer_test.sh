#!/bin/sh
# peer_test.sh GSD MODELS EDIT_GGUF LLAMA_SERVER DOCUMENT [--write]: see peer_test.mjs. The model gets tokens to fill in with.
set -eu
command -v node >/dev/null || { echo "SKIPPED: no node"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$3" "$2/toy-target.gguf" "$dir/toy.gguf" tokenizer.ggml.fim_pre_token_id u32 5 tokenizer.ggml.fim_suf_token_id u32 6 tokenizer.ggml.fim_mid_token_id u32 7
node "$(dirname "$0")/peer_test.mjs" "$1" "$dir/toy.gguf" "$2/toy-draft.gguf" "$4" "$5" ${6:+"$6"}
