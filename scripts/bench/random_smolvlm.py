"""Makes a random checkpoint of SmolVLM-256M's exact geometry: bf16, 0.5 GB, with nothing but numpy; see random_checkpoint.py.

    python scripts/bench/random_smolvlm.py CHECKPOINT

Sizes are those of HuggingFaceTB/SmolVLM-256M-Instruct's config.json; tokenizer and template are a tiny fixture's.
"""

import argparse
import json
import shutil
from pathlib import Path

from random_checkpoint import feed_forward, linear, noise, write_shard

FIXTURE = Path(__file__).parents[2] / "tests/fixtures/tiny/idefics3"
HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 576, 1536, 30, 9, 3, 64, 49280
WIDTH, WIDE, BLOCKS, VISION_HEADS, IMAGE, PATCH, SCALE = 768, 3072, 12, 12, 512, 16, 4
SIDE_FILES = ["chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


def settings() -> dict[str, dict]:
    """The fixture's JSON files with these sizes."""
    read = lambda name: json.loads((FIXTURE / name).read_text())
    config = read("config.json") | {"scale_factor": SCALE, "torch_dtype": "bfloat16"}
    config["text_config"] |= {
        "head_dim": HEAD_DIM,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "max_position_embeddings": 8192,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCABULARY,
    }
    config["vision_config"] |= {
        "hidden_size": WIDTH,
        "image_size": IMAGE,
        "intermediate_size": WIDE,
        "num_attention_heads": VISION_HEADS,
        "num_hidden_layers": BLOCKS,
        "patch_size": PATCH,
        "max_image_size": {"longest_edge": IMAGE},
        "size": {"longest_edge": 4 * IMAGE},
    }
    pictures = {"max_image_size": {"longest_edge": IMAGE}, "size": {"longest_edge": 4 * IMAGE}}
    return {
        "config.json": config,
        "preprocessor_config.json": read("preprocessor_config.json") | pictures,
        "processor_config.json": read("processor_config.json") | {"image_seq_len": (IMAGE // PATCH // SCALE) ** 2},
    }


def shapes() -> dict[str, list[int]]:
    """Every tensor's shape."""
    vision = "model.vision_model"
    tensors = {f"{vision}.embeddings.patch_embedding.weight": [WIDTH, 3, PATCH, PATCH]}
    tensors |= {f"{vision}.embeddings.patch_embedding.bias": [WIDTH]}
    tensors |= {f"{vision}.embeddings.position_embedding.weight": [(IMAGE // PATCH) ** 2, WIDTH]}
    for block in range(BLOCKS):
        prefix = f"{vision}.encoder.layers.{block}"
        tensors |= norm(f"{prefix}.layer_norm1") | norm(f"{prefix}.layer_norm2")
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors |= linear(f"{prefix}.self_attn.{name}", WIDTH, WIDTH, True)
        tensors |= linear(f"{prefix}.mlp.fc1", WIDTH, WIDE, True) | linear(f"{prefix}.mlp.fc2", WIDE, WIDTH, True)
    tensors |= norm(f"{vision}.post_layernorm")
    tensors |= linear("model.connector.modality_projection.proj", WIDTH * SCALE**2, HIDDEN, False)
    text = "model.text_model"
    tensors |= {f"{text}.embed_tokens.weight": [VOCABULARY, HIDDEN], f"{text}.norm.weight": [HIDDEN]}
    for layer in range(LAYERS):
        prefix = f"{text}.layers.{layer}"
        tensors |= {f"{prefix}.{name}.weight": [HIDDEN] for name in ("input_layernorm", "post_attention_layernorm")}
        tensors |= linear(f"{prefix}.self_attn.q_proj", HIDDEN, HEADS * HEAD_DIM, False)
        tensors |= linear(f"{prefix}.self_attn.k_proj", HIDDEN, KV_HEADS * HEAD_DIM, False)
        tensors |= linear(f"{prefix}.self_attn.v_proj", HIDDEN, KV_HEADS * HEAD_DIM, False)
        tensors |= linear(f"{prefix}.self_attn.o_proj", HEADS * HEAD_DIM, HIDDEN, False)
        tensors |= feed_forward(f"{prefix}.mlp", HIDDEN, INNER, False)
    return tensors | {"lm_head.weight": [VOCABULARY, HIDDEN]}


def norm(name: str) -> dict[str, list[int]]:
    """A layer norm's weight and bias."""
    return {f"{name}.weight": [WIDTH], f"{name}.bias": [WIDTH]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    args = parser.parse_args()
    args.checkpoint.mkdir(parents=True, exist_ok=True)
    for name in SIDE_FILES:
        shutil.copy(FIXTURE / name, args.checkpoint)
    for name, content in settings().items():
        (args.checkpoint / name).write_text(json.dumps(content, indent=2) + "\n")
    write_shard(args.checkpoint / "model.safetensors", shapes(), noise())


if __name__ == "__main__":
    main()
