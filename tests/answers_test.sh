#!/bin/sh
# Fails where the program calls a function of libllama or ggml and does not look at what it returns. Usage: answers_test.sh CHECKOUT
set -eu
# Functions that return nothing.
silent='ggml_backend_dev_get_props ggml_backend_register ggml_backend_load_all ggml_backend_load_all_from_path ggml_free gguf_add_tensor gguf_free gguf_set_arr_data gguf_set_kv
gguf_set_val_u32 llama_backend_init llama_batch_ext_clear llama_batch_ext_free llama_free llama_log_get llama_log_set
llama_memory_seq_cp llama_model_free llama_set_abort_callback llama_set_causal_attn llama_set_n_threads llama_synchronize'
# What these return tells nothing: their argument; where the key stood that is gone.
dull='ggml_set_name gguf_remove_key'

# check FOLDER: prints the files and functions of calls that are statements by themselves; fails if there is one.
check() {
  bad=0
  for file in $(find "$1" -name '*.h' -o -name '*.cpp' | sort); do
    # A brace that begins a list of values follows a name, a comma, '=', '(' or 'return'.
    calls=$(sed 's://.*::' "$file" | tr '\n' ' ' | sed -E 's/(return|[,=(]) *\{/\1 (/g' |
      grep -oE '([;})]|[ )]\{)( |else|\(void\))*(llama|ggml|gguf)_[a-z0-9_]+ *\(' |
      grep -oE '(llama|ggml|gguf)_[a-z0-9_]+' | sort -u) || continue
    for call in $calls; do
      case " $(echo $silent $dull) " in *" $call "*) continue ;; esac
      echo "$file: what $call returns is not looked at"
      bad=1
    done
  done
  return $bad
}

# The check itself: each of these must be found out.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
echo 'if (llama_decode(c, b) != 0) return llama_x(c); y = llama_y(); f(llama_z()); X x{llama_v()}; g({llama_w()}); llama_free(c); // ; llama_decode(' >"$scratch/a.cpp"
check "$scratch" || { echo "FAILED: refuses what is looked at"; exit 1; }
for wrong in 'a(); llama_decode(c, b);' 'if (x) llama_decode(c);' 'void f() { llama_memory_seq_rm (m, 0, -1, -1); }' \
  'else llama_tokenize(v);' '(void)llama_decode(c);'; do
  printf '{}\n%s\n' "$wrong" >"$scratch/a.cpp"
  if check "$scratch" >/dev/null; then echo "FAILED: does not see '$wrong'"; exit 1; fi
done

check "$1/src"
