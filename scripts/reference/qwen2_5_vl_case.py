"""The tiny Qwen2.5-VL cases, and the configuration files of a checkpoint in the spellings that exist."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig

import tiny_tokenizer
from tiny_tokenizer import special_id, write_json

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


@dataclass(frozen=True)
class Case:
    """The shape of one checkpoint and the way its files are spelt."""

    name: str
    seed: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    mrope_section: tuple[int, int, int]
    tied: bool
    vision_depth: int
    vision_hidden: int
    vision_heads: int
    vision_intermediate: int
    window: int
    full_attention: tuple[int, ...]
    dtype: torch.dtype
    flat: bool
    published_names: bool
    min_pixels: int = 56 * 56
    max_pixels: int = 112 * 112
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    unused_rows: int = 0
    shards: int = 1
    saved_by_trainer: bool = False
    loud_image_token: bool = False
    all_logits: bool = False
    keep_embeds: bool = False

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding, which may exceed the tokenizer's ids."""
        return tiny_tokenizer.vocabulary_size() + self.unused_rows


CASES = [
    Case(
        "flat_f32",
        1000,
        layers=2,
        hidden=32,
        heads=4,
        kv_heads=2,
        intermediate=48,
        mrope_section=(1, 1, 2),
        tied=False,
        vision_depth=3,
        vision_hidden=16,
        vision_heads=2,
        vision_intermediate=28,
        window=56,
        full_attention=(1,),
        dtype=torch.float32,
        flat=True,
        published_names=True,
        unused_rows=16,
        all_logits=True,
        keep_embeds=True,
    ),
    Case(
        "nested_f32",
        2000,
        layers=2,
        hidden=64,
        heads=4,
        kv_heads=1,
        intermediate=52,
        mrope_section=(2, 3, 3),
        tied=True,
        vision_depth=2,
        vision_hidden=16,
        vision_heads=1,
        vision_intermediate=40,
        window=112,
        full_attention=(1,),
        dtype=torch.float32,
        flat=False,
        published_names=False,
        rope_theta=1e4,
        rms_norm_eps=1e-5,
        shards=2,
        max_pixels=140 * 140,
        all_logits=True,
    ),
    Case(
        "flat_bf16",
        3000,
        layers=3,
        hidden=64,
        heads=8,
        kv_heads=4,
        intermediate=80,
        mrope_section=(2, 1, 1),
        tied=True,
        vision_depth=4,
        vision_hidden=16,
        vision_heads=4,
        vision_intermediate=48,
        window=56,
        full_attention=(1, 3),
        dtype=torch.bfloat16,
        flat=True,
        published_names=True,
        saved_by_trainer=True,
        shards=3,
    ),
    Case(
        "nested_f16",
        4000,
        layers=4,
        hidden=32,
        heads=2,
        kv_heads=2,
        intermediate=64,
        mrope_section=(4, 2, 2),
        tied=False,
        vision_depth=2,
        vision_hidden=20,
        vision_heads=1,
        vision_intermediate=56,
        window=112,
        full_attention=(0, 1),
        dtype=torch.float16,
        flat=False,
        published_names=False,
        unused_rows=8,
        loud_image_token=True,
    ),
    Case(
        "nested_bf16_published_names",
        5000,
        layers=2,
        hidden=64,
        heads=2,
        kv_heads=1,
        intermediate=72,
        mrope_section=(8, 4, 4),
        tied=False,
        vision_depth=3,
        vision_hidden=24,
        vision_heads=2,
        vision_intermediate=48,
        window=56,
        full_attention=(2,),
        dtype=torch.bfloat16,
        flat=False,
        published_names=True,
        max_pixels=140 * 140,
    ),
    Case(
        "flat_f16_wide_pictures",
        6000,
        layers=3,
        hidden=48,
        heads=3,
        kv_heads=1,
        intermediate=64,
        mrope_section=(2, 3, 3),
        tied=False,
        vision_depth=3,
        vision_hidden=24,
        vision_heads=3,
        vision_intermediate=36,
        window=112,
        full_attention=(),
        dtype=torch.float16,
        flat=True,
        published_names=False,
        saved_by_trainer=True,
        max_pixels=168 * 168,
        rope_theta=5e5,
    ),
]


def text_fields(case: Case) -> dict:
    """The text part of config.json, without the rotary settings."""
    return {
        "attention_dropout": 0.0,
        "bos_token_id": special_id("<|endoftext|>"),
        "eos_token_id": special_id("<|im_end|>"),
        "hidden_act": "silu",
        "hidden_size": case.hidden,
        "initializer_range": 0.02,
        "intermediate_size": case.intermediate,
        "max_position_embeddings": 4096,
        "max_window_layers": case.layers,
        "num_attention_heads": case.heads,
        "num_hidden_layers": case.layers,
        "num_key_value_heads": case.kv_heads,
        "rms_norm_eps": case.rms_norm_eps,
        "sliding_window": 4096,
        "tie_word_embeddings": case.tied,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": case.vocabulary,
    }


def vision_fields(case: Case) -> dict:
    """The vision part of config.json, without the channel count, whose name differs."""
    return {
        "depth": case.vision_depth,
        "fullatt_block_indexes": list(case.full_attention),
        "hidden_act": "silu",
        "hidden_size": case.vision_hidden,
        "intermediate_size": case.vision_intermediate,
        "num_heads": case.vision_heads,
        "out_hidden_size": case.hidden,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": case.window,
    }


def image_token_fields() -> dict:
    """The token ids that mark images, at the top level of either spelling."""
    return {
        "image_token_id": special_id("<|image_pad|>"),
        "video_token_id": special_id("<|video_pad|>"),
        "vision_end_token_id": special_id("<|vision_end|>"),
        "vision_start_token_id": special_id("<|vision_start|>"),
    }


def dtype_name(case: Case) -> str:
    """`float32` and so on, as config.json names the storage type."""
    return str(case.dtype).removeprefix("torch.")


def flat_config(case: Case) -> dict:
    """config.json of the published Qwen2.5-VL, or as transformers 4.49 writes it after training."""
    vision = {"in_chans": 3, "spatial_patch_size": 14} | vision_fields(case)
    rope_scaling = {"type": "mrope", "mrope_section": list(case.mrope_section)}
    if case.saved_by_trainer:
        vision |= {"in_channels": 3, "model_type": "qwen2_5_vl"}
        rope_scaling |= {"type": "default", "rope_type": "default"}
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        **text_fields(case),
        **image_token_fields(),
        "vision_token_id": special_id("<|vision_pad|>"),
        "rope_scaling": rope_scaling,
        "rope_theta": case.rope_theta,
        "torch_dtype": dtype_name(case),
        "transformers_version": "4.49.0",
        "vision_config": vision,
    }


def nested_config(case: Case) -> dict:
    """config.json as transformers 5 writes it."""
    rope = {"rope_type": "default", "rope_theta": case.rope_theta, "mrope_section": list(case.mrope_section)}
    config = Qwen2_5_VLConfig(
        text_config=text_fields(case) | {"rope_parameters": rope},
        vision_config=vision_fields(case) | {"in_channels": 3},
        tie_word_embeddings=case.tied,
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        dtype=dtype_name(case),
        **image_token_fields(),
    )
    return config.to_diff_dict()


def generation_config(case: Case) -> dict:
    """generation_config.json; the published one has a repetition penalty, which greedy references ignore."""
    config = {
        "bos_token_id": special_id("<|endoftext|>"),
        "eos_token_id": [special_id("<|im_end|>"), special_id("<|endoftext|>")],
        "pad_token_id": special_id("<|endoftext|>"),
    }
    if case.flat:
        config |= {"do_sample": True, "repetition_penalty": 1.05, "temperature": 1e-06}
    return config | {"transformers_version": "4.49.0" if case.flat else "5.23.0"}


def preprocessor_config(case: Case) -> dict:
    """preprocessor_config.json: the published one is short, the one that a trainer saves is complete."""
    short = {
        "image_mean": CLIP_MEAN,
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": CLIP_STD,
        "merge_size": 2,
        "patch_size": 14,
        "processor_class": "Qwen2_5_VLProcessor",
        "temporal_patch_size": 2,
    }
    if case.flat and not case.saved_by_trainer:
        return short | {"min_pixels": case.min_pixels, "max_pixels": case.max_pixels}
    complete = short | {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": case.max_pixels, "shortest_edge": case.min_pixels},
    }
    if case.saved_by_trainer:
        complete |= {"min_pixels": case.min_pixels, "max_pixels": case.max_pixels}
    return complete


def write_files(folder: Path, case: Case) -> None:
    """Writes everything of a checkpoint but its weights."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", flat_config(case) if case.flat else nested_config(case), indent=2)
    write_json(folder / "generation_config.json", generation_config(case), indent=2)
    write_json(folder / "preprocessor_config.json", preprocessor_config(case), indent=2)
    tiny_tokenizer.write(folder, published=case.flat)
