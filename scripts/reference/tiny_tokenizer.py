"""A tiny tokenizer in Qwen's manner: byte-level BPE, NFC, Qwen's split pattern and special tokens."""

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SPLIT_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]

MERGES = 72

CORPUS = [
    "system\nYou are a helpful assistant.",
    "user\nDescribe the picture and write a long story about the river, the house and the garden.",
    "assistant\nThe picture shows a river beside the house; then the story begins.",
    "user\nWhat is in these pictures? Compare the first with the second and the third.",
    "assistant\nThere are three pictures, and the second one is larger than the first.",
]

CHAT_TEMPLATE = """\
{%- set image_count = namespace(value=0) -%}
{%- set video_count = namespace(value=0) -%}
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
{%- set image_count.value = image_count.value + 1 -%}
{%- if add_vision_id -%}{{- 'Picture ' -}}{{- image_count.value -}}{{- ': ' -}}{%- endif -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' or 'video' in part -%}
{%- set video_count.value = video_count.value + 1 -%}
{%- if add_vision_id -%}{{- 'Video ' -}}{{- video_count.value -}}{{- ': ' -}}{%- endif -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def special_id(token: str) -> int:
    """The id of a special token: they follow the 256 bytes and the merges."""
    return 256 + MERGES + SPECIAL_TOKENS.index(token)


def vocabulary_size() -> int:
    """The number of ids that the tokenizer knows."""
    return 256 + MERGES + len(SPECIAL_TOKENS)


def build(special_tokens: list[str] = SPECIAL_TOKENS) -> Tokenizer:
    """Trains the merges on the corpus and puts the special tokens at the end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(
        add_prefix_space=False, trim_offsets=False, use_regex=False
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=256 + MERGES,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special_tokens]
    )
    assert tokenizer.token_to_id(special_tokens[-1]) == 256 + MERGES + len(special_tokens) - 1
    return tokenizer


def write(folder: Path, published: bool) -> None:
    """Writes the tokenizer's files: spelt as the published checkpoints do, or as transformers 5 does."""
    definition = json.loads(build().to_str())
    if published:
        definition["model"]["merges"] = [" ".join(pair) for pair in definition["model"]["merges"]]
    config = published_config() if published else current_config()
    write_json(folder / "tokenizer.json", definition)
    write_json(folder / "tokenizer_config.json", config, indent=2)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def published_config() -> dict:
    """tokenizer_config.json with the keys of the published Qwen2.5-VL checkpoints."""
    added = {
        str(special_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token in SPECIAL_TOKENS
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": SPECIAL_TOKENS[1:],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 4096,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def current_config() -> dict:
    """tokenizer_config.json with the keys that transformers 5 writes."""
    return {
        "add_prefix_space": False,
        "backend": "tokenizers",
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "extra_special_tokens": SPECIAL_TOKENS[1:],
        "is_local": False,
        "model_max_length": 4096,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "TokenizersBackend",
        "unk_token": None,
    }


def write_json(path: Path, value, indent=None) -> None:
    """Writes JSON as UTF-8, compact unless an indent is given."""
    separators = (",", ": ") if indent else (",", ":")
    path.write_text(json.dumps(value, indent=indent, separators=separators, ensure_ascii=False) + "\n")
