"""Write a BERT embedding model, kept as sentence-transformers does, into one GGUF file.

    python gguf_from_bert.py <folder of the model> <file to write>

Runs in a venv with `gguf`. llama.cpp's own converter does the same for many more models, but comes
with its source alone.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

NOT_USED = ("pooler.", "embeddings.position_ids")
"""Parts of the checkpoint that an embedding does not go through."""

DTYPES = {"F32": "<f4", "F16": "<f2"}
SPECIAL = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}


def tensors(file: Path) -> Iterator[tuple[str, Any]]:
    """The tensors of a safetensors file as float32: eight bytes of length, a JSON header, data."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    for name, entry in header.items():
        if name != "__metadata__" and not name.startswith(NOT_USED):
            begin, end = (start + offset for offset in entry["data_offsets"])
            numbers = np.frombuffer(
                content[begin:end], {"F32": "<f4", "F16": "<f2"}[entry["dtype"]]
            )
            yield name, numbers.reshape(entry["shape"]).astype(np.float32)


def add_shape(writer: Any, gguf: Any, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def add_tokenizer(writer: Any, gguf: Any, words: list[str], type_count: int) -> None:
    writer.add_token_type_count(type_count)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([word if word in SPECIAL else marked(word) for word in words])
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if word in SPECIAL else normal for word in words])
    writer.add_pad_token_id(words.index("[PAD]"))
    writer.add_unk_token_id(words.index("[UNK]"))
    writer.add_bos_token_id(words.index("[CLS]"))
    writer.add_eos_token_id(words.index("[SEP]"))
    writer.add_sep_token_id(words.index("[SEP]"))
    writer.add_mask_token_id(words.index("[MASK]"))


def marked(word: str) -> str:
    """BERT marks what goes on inside a word (`##ing`), GGUF what begins one."""
    return word[2:] if word.startswith("##") else "\u2581" + word


def main(source: Path, target: Path) -> None:
    gguf: Any = importlib.import_module("gguf")
    config = json.loads((source / "config.json").read_text("utf-8"))
    writer = gguf.GGUFWriter(str(target), "bert")
    add_shape(writer, gguf, config)
    words = (source / "vocab.txt").read_text("utf-8").splitlines()
    add_tokenizer(writer, gguf, words, config["type_vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, numbers in tensors(source / "model.safetensors"):
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
