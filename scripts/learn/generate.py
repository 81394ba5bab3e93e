"""Writes an article for every prompt with transformers, which knows nothing of how the checkpoint was trained.

    python scripts/learn/generate.py CHECKPOINT PROMPTS ARTICLES [--adapter DIR] [--temperature T --seed N] [--max-new-tokens N]

Greedy, unless there is a temperature. PROMPTS has `conversations` that begin with the question; ARTICLES gets one object with
`text` a line, as a whole or not at all.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH = 32


def load(checkpoint: Path, adapter: Path | None) -> torch.nn.Module:
    """The model in float32, with an adapter's update put into its weights."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("articles", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-new-tokens", type=int, default=400)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoint, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = load(args.checkpoint, args.adapter)
    asked = [json.loads(line)["conversations"][0]["value"] for line in args.prompts.read_text().splitlines()]
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in asked
    ]
    how = {"do_sample": True, "temperature": args.temperature} if args.temperature else {"do_sample": False}
    texts = []
    for first in range(0, len(prompts), BATCH):
        inputs = tokenizer(prompts[first : first + BATCH], return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.no_grad():
            ids = model.generate(
                **inputs,
                max_new_tokens=args.max_new_tokens,
                eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
                pad_token_id=tokenizer.pad_token_id,
                top_p=1.0,
                top_k=0,
                repetition_penalty=1.0,
                **how,
            )
        answers = ids[:, inputs["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(answers, skip_special_tokens=True)
    partial = args.articles.with_suffix(".partial")
    partial.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    partial.rename(args.articles)


if __name__ == "__main__":
    main()
