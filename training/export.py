"""Writes a checkpoint as GGUF for libllama.

    python3 export.py --model target.pt --tokenizer data/tokenizer.json --format q8_0 --name gsd-target --out gsd-target-q8_0.gguf

Matrices and the embedding take --format, norms stay F32.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import gguf
import torch

import model as models

FORMATS = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
    "q4_1": (gguf.GGMLQuantizationType.Q4_1, gguf.LlamaFileType.MOSTLY_Q4_1),
    "q5_0": (gguf.GGMLQuantizationType.Q5_0, gguf.LlamaFileType.MOSTLY_Q5_0),
    "q5_1": (gguf.GGMLQuantizationType.Q5_1, gguf.LlamaFileType.MOSTLY_Q5_1),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
BLOCK_NAMES = {
    "attn_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
    "ffn_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}  # fmt: skip
END_OF_TEXT = "<|endoftext|>"


def gguf_name(name: str) -> str:
    """`blocks.3.gate.weight` -> `blk.3.ffn_gate.weight`"""
    parts = name.split(".")
    if parts[0] == "blocks":
        return f"blk.{parts[1]}.{BLOCK_NAMES[parts[2]]}.weight"
    return {"embed": "token_embd.weight", "norm": "output_norm.weight"}[parts[0]]


def write_header(writer: gguf.GGUFWriter, config: models.Config, name: str, parameters: int, file_type: int) -> None:
    writer.add_type("model")
    writer.add_name(name)
    writer.add_size_label(gguf.size_label(parameters, 0, 0, 0))
    writer.add_license("mit")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(file_type)
    writer.add_vocab_size(config.vocab)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ff)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.heads)
    writer.add_layer_norm_rms_eps(models.NORM_EPS)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(models.ROPE_BASE)


def write_tokenizer(writer: gguf.GGUFWriter, path: Path, vocab_size: int) -> None:
    """Ids that the tokenizer does not use (a small corpus yields fewer) become unused tokens."""
    bpe = json.loads(path.read_text())["model"]
    tokens = {i: t for t, i in bpe["vocab"].items()}
    kinds = {0: gguf.TokenType.CONTROL}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens.get(i, f"<|unused{i}|>") for i in range(vocab_size)])
    writer.add_token_types([kinds.get(i, gguf.TokenType.NORMAL if i in tokens else gguf.TokenType.UNUSED) for i in range(vocab_size)])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]])
    writer.add_bos_token_id(bpe["vocab"][END_OF_TEXT])
    writer.add_eos_token_id(bpe["vocab"][END_OF_TEXT])
    writer.add_add_bos_token(True)


def write_weights(writer: gguf.GGUFWriter, weights: dict, name_of: Callable[[str], str], kind: gguf.GGMLQuantizationType) -> None:
    """Adds the weights, matrices as `kind` and vectors as floats, and ends the file."""
    for key, w in weights.items():
        data = w.float().numpy()
        if data.ndim > 1:
            writer.add_tensor(name_of(key), gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name_of(key), data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def export(model: models.Llama, tokenizer: Path, out: Path, name: str, form: str) -> None:
    kind, file_type = FORMATS[form]
    writer = gguf.GGUFWriter(out, "llama")
    write_header(writer, model.config, name, sum(p.numel() for p in model.parameters()), file_type)
    write_tokenizer(writer, tokenizer, model.config.vocab)
    write_weights(writer, model.state_dict(), gguf_name, kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json written by tokenizer.py")
    parser.add_argument("--format", choices=FORMATS, default="q8_0", help="of matrices and embedding (default q8_0)")
    parser.add_argument("--name", default="gsd", help="general.name in the file")
    parser.add_argument("--out", type=Path, required=True, help="GGUF file to write")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    export(models.load(args.model)[0], args.tokenizer, args.out, args.name, args.format)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
