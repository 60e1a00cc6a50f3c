"""Turns a GGUF file that export.py wrote back into a checkpoint, so that a shipped model can be trained on or distilled.

    python3 import_gguf.py gsd-draft-q8_0.gguf --out draft.pt
    python3 import_gguf.py gsd-target-q8_0.gguf --out target.pt --tokenizer tokenizer.json

Quantised weights come back as the values the file stands for, and without the optimizer's state.
"""

import argparse
import json
from pathlib import Path

import gguf
import torch

import export
import model as models


def field(reader: gguf.GGUFReader, key: str):
    if key not in reader.fields:
        raise SystemExit(f"the file has no '{key}': only llama models with a byte-level BPE, as export.py writes them, can be imported")
    return reader.fields[key].contents()


def read_config(reader: gguf.GGUFReader) -> models.Config:
    """Refuses shapes that model.py does not compute, such as grouped heads, another RoPE or an output of its own."""
    if field(reader, "general.architecture") != "llama":
        raise SystemExit(f"architecture '{field(reader, 'general.architecture')}': only llama can be imported")
    get = lambda key: field(reader, f"llama.{key}")  # noqa: E731
    config = models.Config(
        vocab=get("vocab_size"),
        width=get("embedding_length"),
        layers=get("block_count"),
        heads=get("attention.head_count"),
        ff=get("feed_forward_length"),
        context=get("context_length"),
    )
    config.check()
    expected = {
        "attention.head_count_kv": config.heads,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": models.ROPE_BASE,
        "attention.layer_norm_rms_epsilon": models.NORM_EPS,
    }
    for key, value in expected.items():
        if abs(get(key) - value) > 1e-6 * abs(value):
            raise SystemExit(f"llama.{key} is {get(key)}, model.py has {value}: this model cannot be imported")
    return config


def read_weights(reader: gguf.GGUFReader, model: models.Llama) -> None:
    tensors = {t.name: t for t in reader.tensors}
    names = {name: export.gguf_name(name) for name in model.state_dict()}
    if set(names.values()) != set(tensors):
        different = sorted(set(names.values()) ^ set(tensors))
        raise SystemExit(f"tensors that only the file or only model.py has: {', '.join(different[:5])}")
    state = {}
    for name, shape in ((n, w.shape) for n, w in model.state_dict().items()):
        t = tensors[names[name]]
        state[name] = torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).reshape(shape).copy())
    model.load_state_dict(state)


def read_tokenizer(reader: gguf.GGUFReader) -> dict:
    """tokenizer.json as tokenizer.py saves it: the inverse of export.write_tokenizer."""
    if field(reader, "tokenizer.ggml.pre") != "gpt-2":
        raise SystemExit("the file's tokenizer is not the byte-level BPE that tokenizer.py trains")
    used = [kind != gguf.TokenType.UNUSED for kind in field(reader, "tokenizer.ggml.token_type")]
    vocab = {t: i for i, t in enumerate(field(reader, "tokenizer.ggml.tokens")) if used[i]}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": vocab[export.END_OF_TEXT], "content": export.END_OF_TEXT, **special}],
        "pre_tokenizer": level,
        "decoder": level | {"add_prefix_space": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": [m.split(" ") for m in field(reader, "tokenizer.ggml.merges")]},
    }


@torch.no_grad()
def load_gguf(path: Path) -> models.Llama:
    reader = gguf.GGUFReader(path)
    model = models.Llama(read_config(reader))
    read_weights(reader, model)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="GGUF file")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--tokenizer", type=Path, help="also write the file's tokenizer here (for tokenizer.py --tokenizer)")
    args = parser.parse_args()
    model = load_gguf(args.source)
    models.save(args.out, model)
    if args.tokenizer:
        args.tokenizer.write_text(json.dumps(read_tokenizer(gguf.GGUFReader(args.source)), ensure_ascii=False))
    print(f"{args.out}: {model.parameter_count() / 1e6:.2f}M parameters, {model.config}")


if __name__ == "__main__":
    main()
