"""Makes a random checkpoint of Qwen2.5-VL's exact geometry: bf16, sharded, 16 GB for 7B, with nothing but numpy.

    python scripts/bench/random_checkpoint.py CHECKPOINT [--geometry 3B] [--layers N] [--blocks N]

Weights are noise of one magnitude. The tokenizer is that of a tiny fixture, pictures may be as large as the published checkpoints
let them: the folder is for measuring how programs cope with its size, not for reading.
"""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FIXTURE = Path(__file__).parents[2] / "tests/fixtures/tiny/flat_f32"
SIDE_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
]
PICTURES = "preprocessor_config.json"
PIXELS = {"min_pixels": 3136, "max_pixels": 12845056}
SHARD_BYTES = 4 << 30
HEAD_DIM = 128
VISION, VISION_INNER, VISION_HEADS = 1280, 3420, 16


@dataclass
class Geometry:
    """Sizes of a decoder."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool


GEOMETRIES = {
    "3B": Geometry(2048, 11008, 36, 16, 2, 151936, True),
    "7B": Geometry(3584, 18944, 28, 28, 4, 152064, False),
}


def config(size: Geometry, layers: int, blocks: int) -> dict:
    """config.json in the flat spelling of the published checkpoints, with the special tokens of the fixture."""
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "hidden_act": "silu",
        "hidden_size": size.hidden,
        "intermediate_size": size.inner,
        "num_hidden_layers": layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "vocab_size": size.vocabulary,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": size.tied,
        "use_sliding_window": False,
        "bos_token_id": 328,
        "eos_token_id": 330,
        "image_token_id": 334,
        "video_token_id": 335,
        "vision_start_token_id": 331,
        "vision_end_token_id": 332,
        "torch_dtype": "bfloat16",
        "vision_config": {
            "depth": blocks,
            "hidden_size": VISION,
            "intermediate_size": VISION_INNER,
            "num_heads": VISION_HEADS,
            "in_chans": 3,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "out_hidden_size": size.hidden,
            "hidden_act": "silu",
        },
    }


def shapes(size: Geometry, layers: int, blocks: int) -> dict[str, list[int]]:
    """Every tensor's shape, under the names of the published checkpoints."""
    query, key_value = size.heads * HEAD_DIM, size.kv_heads * HEAD_DIM
    tensors = {"visual.patch_embed.proj.weight": [VISION, 3, 2, 14, 14]}
    for block in range(blocks):
        prefix = f"visual.blocks.{block}"
        tensors |= {f"{prefix}.{norm}.weight": [VISION] for norm in ("norm1", "norm2")}
        tensors |= linear(f"{prefix}.attn.qkv", VISION, 3 * VISION, True)
        tensors |= linear(f"{prefix}.attn.proj", VISION, VISION, True)
        tensors |= feed_forward(f"{prefix}.mlp", VISION, VISION_INNER, True)
    tensors |= {"visual.merger.ln_q.weight": [VISION]}
    tensors |= linear("visual.merger.mlp.0", 4 * VISION, 4 * VISION, True)
    tensors |= linear("visual.merger.mlp.2", 4 * VISION, size.hidden, True)
    tensors |= {"model.embed_tokens.weight": [size.vocabulary, size.hidden], "model.norm.weight": [size.hidden]}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        tensors |= {f"{prefix}.{norm}.weight": [size.hidden] for norm in ("input_layernorm", "post_attention_layernorm")}
        tensors |= linear(f"{prefix}.self_attn.q_proj", size.hidden, query, True)
        tensors |= linear(f"{prefix}.self_attn.k_proj", size.hidden, key_value, True)
        tensors |= linear(f"{prefix}.self_attn.v_proj", size.hidden, key_value, True)
        tensors |= linear(f"{prefix}.self_attn.o_proj", query, size.hidden, False)
        tensors |= feed_forward(f"{prefix}.mlp", size.hidden, size.inner, False)
    return tensors if size.tied else tensors | {"lm_head.weight": [size.vocabulary, size.hidden]}


def linear(name: str, inputs: int, outputs: int, bias: bool) -> dict[str, list[int]]:
    """A linear layer's weight, and its bias if it has one."""
    weight = {f"{name}.weight": [outputs, inputs]}
    return weight | {f"{name}.bias": [outputs]} if bias else weight


def feed_forward(name: str, width: int, inner: int, bias: bool) -> dict[str, list[int]]:
    """The three projections of a gated feed-forward layer."""
    up = linear(f"{name}.gate_proj", width, inner, bias) | linear(f"{name}.up_proj", width, inner, bias)
    return up | linear(f"{name}.down_proj", inner, width, bias)


def in_shards(tensors: dict[str, list[int]]) -> list[dict[str, list[int]]]:
    """The tensors in order, cut into shards."""
    shards, used = [{}], 0
    for name, shape in tensors.items():
        size = 2 * int(np.prod(shape))
        if shards[-1] and used + size > SHARD_BYTES:
            shards.append({})
            used = 0
        shards[-1][name] = shape
        used += size
    return shards


def noise() -> bytes:
    """64 MB of bf16 numbers of either sign between 2^-7 and 2^-5."""
    bits = np.random.default_rng(0).integers(0, 1 << 16, 32 << 20, dtype=np.uint16)
    return ((bits & 0x80FF) | 0x3C00).tobytes()


def write_shard(path: Path, tensors: dict[str, list[int]], block: bytes) -> None:
    """One safetensors file."""
    header, position = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        end = position + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, position, len(block)):
            file.write(block[: position - start])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="7B")
    parser.add_argument("--layers", type=int, help="decoder layers, if not as many as published")
    parser.add_argument("--blocks", type=int, default=32, help="vision blocks")
    args = parser.parse_args()
    size = GEOMETRIES[args.geometry]
    layers = args.layers or size.layers
    args.checkpoint.mkdir(parents=True, exist_ok=True)
    for name in SIDE_FILES:
        shutil.copy(FIXTURE / name, args.checkpoint)
    settings = json.loads((FIXTURE / PICTURES).read_text()) | PIXELS
    (args.checkpoint / PICTURES).write_text(json.dumps(settings, indent=2) + "\n")
    shards = in_shards(shapes(size, layers, args.blocks))
    block, weight_map = noise(), {}
    for index, tensors in enumerate(shards, 1):
        name = f"model-{index:05}-of-{len(shards):05}.safetensors"
        write_shard(args.checkpoint / name, tensors, block)
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (args.checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    (args.checkpoint / "config.json").write_text(json.dumps(config(size, layers, args.blocks), indent=2))


if __name__ == "__main__":
    main()
