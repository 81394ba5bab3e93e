"""The tiny Idefics3 and SmolVLM cases, and the configuration files of a checkpoint in the spellings that exist."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

import tiny_tokenizer
from tiny_tokenizer import write_json

SPECIAL_TOKENS = [
    "<|im_start|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<global-img>",
    "<image>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
]

# As SmolVLM is published with; it takes messages in parts only.
CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@dataclass(frozen=True)
class Case:
    """The shape of one checkpoint and the way its files are spelt."""

    name: str
    model_type: str
    seed: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    tied: bool
    vision_layers: int
    vision_hidden: int
    vision_heads: int
    vision_intermediate: int
    tile: int
    patch: int
    scale_factor: int
    longest_edge: int
    splits: bool
    dtype: torch.dtype
    published: bool
    shards: int = 1
    all_logits: bool = False

    @property
    def architecture(self) -> str:
        """The class in transformers."""
        kind = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}[self.model_type]
        return f"{kind}ForConditionalGeneration"

    @property
    def image_seq_len(self) -> int:
        """Tokens of a tile."""
        return (self.tile // self.patch // self.scale_factor) ** 2


CASES = [
    Case(
        "idefics3",
        "idefics3",
        11000,
        layers=2,
        hidden=32,
        heads=4,
        kv_heads=2,
        intermediate=48,
        tied=False,
        vision_layers=2,
        vision_hidden=32,
        vision_heads=2,
        vision_intermediate=48,
        tile=64,
        patch=16,
        scale_factor=2,
        longest_edge=128,
        splits=True,
        dtype=torch.float32,
        published=True,
        all_logits=True,
    ),
    Case(
        "smolvlm",
        "smolvlm",
        12000,
        layers=3,
        hidden=48,
        heads=3,
        kv_heads=1,
        intermediate=64,
        tied=True,
        vision_layers=3,
        vision_hidden=36,
        vision_heads=3,
        vision_intermediate=40,
        tile=84,
        patch=14,
        scale_factor=3,
        longest_edge=200,
        splits=False,
        dtype=torch.bfloat16,
        published=False,
        shards=2,
    ),
]


def special_id(token: str) -> int:
    """The id of a special token: they follow the 256 bytes and the merges."""
    return 256 + tiny_tokenizer.MERGES + SPECIAL_TOKENS.index(token)


def vocabulary_size() -> int:
    """The number of ids that the tokenizer knows."""
    return 256 + tiny_tokenizer.MERGES + len(SPECIAL_TOKENS)


def text_config(case: Case) -> dict:
    """The text part of config.json."""
    rope = {"rope_theta": 1e5} if case.published else {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}
    return rope | {
        "architectures": ["VLlama3ForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": special_id("<|im_start|>"),
        "eos_token_id": special_id("<end_of_utterance>"),
        "head_dim": case.hidden // case.heads,
        "hidden_act": "silu",
        "hidden_size": case.hidden,
        "intermediate_size": case.intermediate,
        "max_position_embeddings": 4096,
        "mlp_bias": False,
        "num_attention_heads": case.heads,
        "num_hidden_layers": case.layers,
        "num_key_value_heads": case.kv_heads,
        "pad_token_id": special_id("<|im_start|>"),
        "rms_norm_eps": 1e-5,
        "use_cache": True,
        "vocab_size": vocabulary_size(),
    }


def vision_config(case: Case) -> dict:
    """The vision part of config.json, without what is as by default in the published ones."""
    fields = {
        "hidden_size": case.vision_hidden,
        "image_size": case.tile,
        "intermediate_size": case.vision_intermediate,
        "model_type": "idefics3" if case.published else f"{case.model_type}_vision",
        "num_attention_heads": case.vision_heads,
        "num_hidden_layers": case.vision_layers,
        "patch_size": case.patch,
    }
    if case.published:
        return fields | {"max_image_size": {"longest_edge": case.tile}, "size": {"longest_edge": case.longest_edge}}
    return fields | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "num_channels": 3}


def config(case: Case) -> dict:
    """config.json."""
    version = "4.46.0" if case.published else "5.23.0"
    return {
        "architectures": [case.architecture],
        "model_type": case.model_type,
        "image_token_id": special_id("<image>"),
        "scale_factor": case.scale_factor,
        "text_config": text_config(case),
        "tie_word_embeddings": case.tied,
        ("torch_dtype" if case.published else "dtype"): str(case.dtype).removeprefix("torch."),
        "transformers_version": version,
        "use_cache": True,
        "vision_config": vision_config(case),
    }


def preprocessor_config(case: Case) -> dict:
    """preprocessor_config.json."""
    return {
        "do_convert_rgb": True,
        "do_image_splitting": case.splits,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Idefics3ImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "max_image_size": {"longest_edge": case.tile},
        "processor_class": "Idefics3Processor",
        "resample": 1,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": case.longest_edge},
    }


def tokenizer_config() -> dict:
    """tokenizer_config.json."""
    return {
        "bos_token": "<|im_start|>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<end_of_utterance>",
        "extra_special_tokens": SPECIAL_TOKENS[2:],
        "model_max_length": 4096,
        "pad_token": "<|im_start|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def write_files(folder: Path, case: Case) -> None:
    """Writes everything of a checkpoint but its weights."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ends = {
        "bos_token_id": special_id("<|im_start|>"),
        "eos_token_id": special_id("<end_of_utterance>"),
        "pad_token_id": special_id("<|im_start|>"),
    }
    write_json(folder / "config.json", config(case), indent=2)
    write_json(folder / "generation_config.json", ends, indent=2)
    write_json(folder / "processor_config.json", processor_config(case), indent=2)
    if case.published:
        write_json(folder / "preprocessor_config.json", preprocessor_config(case), indent=2)
    tokenizer = tiny_tokenizer.build(SPECIAL_TOKENS)
    write_json(folder / "tokenizer.json", json.loads(tokenizer.to_str()))
    write_json(folder / "tokenizer_config.json", tokenizer_config(), indent=2)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def processor_config(case: Case) -> dict:
    """processor_config.json: short where the image processor has a file of its own."""
    fields = {"image_seq_len": case.image_seq_len, "processor_class": "Idefics3Processor"}
    return fields if case.published else fields | {"image_processor": preprocessor_config(case)}
