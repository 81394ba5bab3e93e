"""Makes tiny random Llama and Qwen2 checkpoints, and records what transformers computes with them.

    pip install -r scripts/reference/requirements.txt
    python scripts/reference/tiny_text.py

Writes tests/fixtures/tiny/llama (untied head, llama3 rotary scaling, spelt as transformers 4 does) and
tests/fixtures/tiny/qwen2 (tied head, biases on q, k and v, two shards, spelt as transformers 5 does). The
keys of the expectations are described in tests/fixtures/README.md.
"""

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import checkpoint
import exact
import record
import tiny_tokenizer
from tiny_tokenizer import special_id, write_json

TINY = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "tiny"
SEEDS = 200
MESSAGES = [
    {"role": "system", "content": "You write."},
    {"role": "user", "content": "Write a long story:\n\nthe river, 1, 22, 333…"},
]
RAW = "The picture shows a river beside the house; then the story begins"


def common_config() -> dict:
    """What the two checkpoints share."""
    return {
        "attention_dropout": 0.0,
        "bos_token_id": special_id("<|endoftext|>"),
        "eos_token_id": special_id("<|im_end|>"),
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 4096,
        "use_cache": True,
        "vocab_size": tiny_tokenizer.vocabulary_size(),
    }


def llama_config() -> dict:
    """config.json of the Llama checkpoint; the scaling acts within the prompts' lengths."""
    return common_config() | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
        "head_dim": 16,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 64,
            "rope_type": "llama3",
        },
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.49.0",
    }


def qwen2_config() -> dict:
    """config.json of the Qwen2 checkpoint."""
    return common_config() | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "dtype": "bfloat16",
        "hidden_size": 32,
        "intermediate_size": 40,
        "layer_types": ["full_attention"] * 3,
        "max_window_layers": 3,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "pad_token_id": None,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
        "sliding_window": None,
        "tie_word_embeddings": True,
        "transformers_version": "5.23.0",
        "use_sliding_window": False,
    }


def write_files(folder: Path, config: dict) -> None:
    """Writes everything of a checkpoint but its weights."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ends = {
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": config["eos_token_id"],
        "pad_token_id": special_id("<|endoftext|>"),
        "transformers_version": config["transformers_version"],
    }
    write_json(folder / "config.json", config, indent=2)
    write_json(folder / "generation_config.json", ends, indent=2)
    tiny_tokenizer.write(folder, published="rope_scaling" in config)


def prepare(tokenizer) -> dict[str, tuple[dict, dict]]:
    """The two prompts: what is recorded of each, and the model's inputs."""
    rendered = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    chat = {"messages": MESSAGES, "text": rendered}
    return {
        "chat": (chat, dict(tokenizer(rendered, return_tensors="pt"))),
        "raw": ({"text": RAW}, dict(tokenizer(RAW, return_tensors="pt"))),
    }


def recorded(model, inputs: dict) -> dict[str, torch.Tensor]:
    """Everything that is compared: the logits of the prompt and of each greedy step."""
    return {"step_logits": record.greedy(model, inputs).logits, "prompt_logits": model(**inputs).logits[0]}


def distances(model, double, prompts: dict) -> dict[str, float]:
    """How far float32 is from float64, by prompt and result."""
    return {
        f"{name}.{key}": distance
        for name, (_, inputs) in prompts.items()
        for key, distance in exact.distances(model, double, inputs, recorded).items()
    }


def is_telling(greedy: record.Greedy, stop: int) -> bool:
    """Whether greedy tokens run to the end, vary, and are well apart from the runners-up."""
    return (
        len(greedy.ids) == record.GREEDY_STEPS
        and stop not in greedy.ids
        and greedy.gap() >= record.SMALLEST_GAP
        and greedy.is_varied()
    )


def is_good(model, double, prompts: dict, stop: int) -> bool:
    """Whether every prompt is telling, and float32 is close to float64."""
    if not all(is_telling(record.greedy(model, inputs), stop) for _, inputs in prompts.values()):
        return False
    exact.copy_weights(model, double)
    return max(distances(model, double, prompts).values()) <= exact.LIMIT


def search(folder: Path, prompts: dict, dtype: torch.dtype, first_seed: int, shards: int) -> int:
    """Writes the first good weights, and returns their seed."""
    config = AutoConfig.from_pretrained(folder)
    config.dtype = torch.float32
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = special_id("<|endoftext|>")
    double = exact.twin(model)
    for seed in range(first_seed, first_seed + SEEDS):
        checkpoint.randomise(model, seed)
        checkpoint.round_to(model, dtype)
        if is_good(model, double, prompts, config.eos_token_id):
            checkpoint.write_weights(folder, checkpoint.stored_weights(model, dtype), shards)
            return seed
    raise SystemExit(f"{folder.name}: no good seed among {SEEDS}")


def make(name: str, config: dict, dtype: torch.dtype, first_seed: int, shards: int) -> None:
    """Makes one checkpoint and its expectations."""
    folder = TINY / name
    write_files(folder, config)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = prepare(tokenizer)
    seed = search(folder, prompts, dtype, first_seed, shards)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    rounding = exact.check(distances(model, exact.twin(model), prompts))
    summaries, tensors = {}, {}
    for prompt, (summary, inputs) in prompts.items():
        greedy = record.greedy(model, inputs)
        assert is_telling(greedy, model.config.eos_token_id), (prompt, greedy.ids, greedy.gap())
        summaries[prompt] = summary | {
            "input_ids": inputs["input_ids"][0].tolist(),
            "greedy_ids": greedy.ids,
            "greedy_text": tokenizer.decode(greedy.ids, skip_special_tokens=True),
            "smallest_gap": greedy.gap(),
        }
        tensors[f"{prompt}.step_logits"] = greedy.thinned()
        tensors[f"{prompt}.prompt_logits"] = model(**inputs).logits[0]
    gap = min(summary["smallest_gap"] for summary in summaries.values())
    expected = {"case": name, "greedy_steps": record.GREEDY_STEPS, "smallest_gap": gap, "prompts": summaries}
    record.write_expected(folder, expected, tensors)
    print(
        f"{name}: seed {seed}, smallest gap {gap:.4f}, float32 within {rounding:.1e} of float64, "
        f"{record.folder_size(folder) / 1024:.0f} KiB"
    )


def main() -> None:
    torch.set_num_threads(2)
    with torch.inference_mode():
        make("llama", llama_config(), torch.float32, first_seed=7000, shards=1)
        make("qwen2", qwen2_config(), torch.bfloat16, first_seed=8000, shards=2)


if __name__ == "__main__":
    main()
