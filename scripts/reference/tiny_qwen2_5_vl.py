"""Makes tiny random Qwen2.5-VL checkpoints, and records what transformers computes with them.

    pip install -r scripts/reference/requirements.txt
    python scripts/reference/tiny_qwen2_5_vl.py [CASE ...]

Writes tests/fixtures/images and tests/fixtures/tiny/<case>. Each case starts at a fixed seed and takes the
first one for which the images change the greedy tokens, attention windows and three-dimensional positions
matter, no prompt stops early or repeats itself all along, the two best logits of every greedy step are well
apart, and float32 is close to float64. The keys of expected.json and expected.safetensors are described in
tests/fixtures/README.md.
"""

import argparse
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_window_index

import checkpoint
import exact
import pictures
import record
import tiny_tokenizer
from qwen2_5_vl_case import CASES, Case, generation_config, write_files
from tiny_tokenizer import special_id

FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures"
PIXEL_STRIDE = 97
SEEDS = 400
SMALLEST_EFFECT = 1e-2
LOUD_PROMPTS = {"one_sized", "three_sized"}
LOUD_STEPS = 48


def draw(model: Qwen2_5_VLForConditionalGeneration, case: Case, seed: int) -> None:
    """Draws the weights of a case: no id beyond the tokenizer wins, a loud image token often does."""
    checkpoint.randomise(model, seed)
    with torch.no_grad():
        model.lm_head.weight[tiny_tokenizer.vocabulary_size() :] = 0.0
        if case.loud_image_token:
            model.lm_head.weight[special_id("<|image_pad|>")] *= 2.5
    checkpoint.round_to(model, case.dtype)


def write_weights(folder: Path, model: Qwen2_5_VLForConditionalGeneration, case: Case) -> None:
    """Writes the safetensors under the names and in the type of the case."""
    rename = checkpoint.published_name if case.published_names else lambda name: name
    checkpoint.write_weights(folder, checkpoint.stored_weights(model, case.dtype, rename), case.shards)


def load(folder: Path) -> Qwen2_5_VLForConditionalGeneration:
    """Loads a checkpoint in float32 with eager attention, and refuses one that does not fit entirely."""
    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval()


def load_processor(folder: Path) -> Qwen2_5_VLProcessor:
    """The processor of a checkpoint, with the image processor that resizes by Pillow."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    images = Qwen2VLImageProcessorPil.from_pretrained(folder)
    return Qwen2_5_VLProcessor(
        images, tokenizer, Qwen2VLVideoProcessor(), chat_template=tokenizer.chat_template
    )


def image(name: str) -> dict:
    """An image part of a message."""
    return {"type": "image", "image": f"images/{name}.png"}


def text(content: str) -> dict:
    """A text part of a message."""
    return {"type": "text", "text": content}


PROMPTS = {
    "text": [{"role": "user", "content": "Write a story about the river, naïve: 河, 42 houses."}],
    "one_image": [{"role": "user", "content": [image("a_64x48"), text("Describe the picture.")]}],
    "three_images": [
        {
            "role": "user",
            "content": [
                text("First "),
                image("b_100x60"),
                text(" and "),
                image("c_37x91"),
                text(" then "),
                image("f_160x130"),
                text(" Compare these."),
            ],
        }
    ],
    "two_turns": [
        {"role": "system", "content": "You write."},
        {"role": "user", "content": [image("d_28x28"), text("What is it?")]},
        {"role": "assistant", "content": [text("The house.")]},
        {"role": "user", "content": [text("And "), image("e_140x56"), text("?")]},
    ],
    "one_sized": [{"role": "user", "content": [image("sized_84x56"), text("Describe the house.")]}],
    "three_sized": [
        {
            "role": "user",
            "content": [
                image("sized_56x56"),
                text(" is the first, "),
                image("sized_84x56"),
                text(" the second, "),
                image("sized_56x112"),
                text(" the third."),
            ],
        }
    ],
}


SIZED_PROMPTS = {"one_sized", "three_sized"}


def image_paths(messages: list[dict]) -> list[str]:
    """The images of a conversation, in order."""
    parts = [
        part for message in messages if isinstance(message["content"], list) for part in message["content"]
    ]
    return [part["image"] for part in parts if part["type"] == "image"]


def prepare(processor: Qwen2_5_VLProcessor, messages: list[dict]) -> tuple[str, dict]:
    """Renders a conversation, and turns it into the model's inputs."""
    rendered = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    images = [Image.open(FIXTURES / path).convert("RGB") for path in image_paths(messages)]
    inputs = processor(text=[rendered], images=images or None, return_tensors="pt")
    return rendered, dict(inputs)


@contextmanager
def blank_images(model: Qwen2_5_VLForConditionalGeneration):
    """Makes the vision tower answer zeros."""

    def zero(module, arguments, output):
        output.pooler_output = torch.zeros_like(output.pooler_output)
        return output

    handle = model.model.visual.register_forward_hook(zero)
    yield
    handle.remove()


def first_change(model, inputs: dict, reference: list[int]) -> int | None:
    """The first greedy step that the images decide, or None."""
    with blank_images(model):
        blank = record.greedy(model, inputs).ids
    return next((step for step, (a, b) in enumerate(zip(reference, blank)) if a != b), None)


def image_features(model, inputs: dict) -> torch.Tensor:
    """What the vision tower and its merger make of the images, in order."""
    output = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
    return torch.cat(output.pooler_output)


def window_effect(model, inputs: dict) -> float:
    """How much the image features change when every block attends to whole images."""
    visual = model.model.visual
    stored = visual.fullatt_block_indexes
    windowed = image_features(model, inputs)
    visual.fullatt_block_indexes = list(range(len(visual.blocks)))
    full = image_features(model, inputs)
    visual.fullatt_block_indexes = stored
    return exact.farthest(windowed, full)


def position_effect(model, inputs: dict) -> float:
    """How much the logits change when positions just count the tokens."""
    counted = torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1)
    return exact.farthest(model(**inputs).logits, model(**inputs, position_ids=counted).logits)


def layout_matters(model, case: Case, inputs: dict) -> bool:
    """Whether windows, where a case has any, and the rows of positions make a difference."""
    windowed = len(case.full_attention) < case.vision_depth
    return position_effect(model, inputs) >= SMALLEST_EFFECT and (
        not windowed or window_effect(model, inputs) >= SMALLEST_EFFECT
    )


def is_telling(case: Case, name: str, greedy: record.Greedy) -> bool:
    """Whether a prompt's greedy tokens run to the end, vary, and are well apart from the runners-up."""
    stops = set(generation_config(case)["eos_token_id"])
    is_loud = case.loud_image_token and name in LOUD_PROMPTS
    return (
        len(greedy.ids) == record.GREEDY_STEPS
        and not stops & set(greedy.ids)
        and greedy.gap() >= record.SMALLEST_GAP
        and greedy.is_varied()
        and (not is_loud or special_id("<|image_pad|>") in greedy.ids[:LOUD_STEPS])
    )


def recorded(model, inputs: dict) -> dict[str, torch.Tensor]:
    """Everything that is compared: the logits of the prompt and of each greedy step, and image features."""
    results = {"step_logits": record.greedy(model, inputs).logits, "prompt_logits": model(**inputs).logits[0]}
    if "pixel_values" in inputs:
        results["image_features"] = image_features(model, inputs)
    return results


def distances(model, double, inputs: dict[str, dict]) -> dict[str, float]:
    """How far float32 is from float64, by prompt and result."""
    return {
        f"{name}.{key}": distance
        for name, prompt in inputs.items()
        for key, distance in exact.distances(model, double, prompt, recorded).items()
    }


def is_good(model, double, case: Case, inputs: dict[str, dict]) -> bool:
    """Whether these weights make a telling case."""
    if not layout_matters(model, case, inputs["three_images"]):
        return False
    for name, prompt in inputs.items():
        greedy = record.greedy(model, prompt)
        if not is_telling(case, name, greedy):
            return False
        if "pixel_values" in prompt and first_change(model, prompt, greedy.ids) is None:
            return False
    exact.copy_weights(model, double)
    return max(distances(model, double, inputs).values()) <= exact.LIMIT


def blank_model(folder: Path) -> Qwen2_5_VLForConditionalGeneration:
    """A float32 model of a folder's shape, whatever type its weights will be stored in."""
    config = Qwen2_5_VLConfig.from_pretrained(folder)
    for part in (config, config.text_config, config.vision_config):
        part.dtype = torch.float32
    config._attn_implementation = "eager"
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def search(folder: Path, case: Case, inputs: dict[str, dict]) -> int:
    """Writes the first good weights of a case, and returns their seed."""
    model = blank_model(folder)
    model.generation_config.eos_token_id = sorted(generation_config(case)["eos_token_id"])
    model.generation_config.pad_token_id = special_id("<|endoftext|>")
    double = exact.twin(model)
    for seed in range(case.seed, case.seed + SEEDS):
        draw(model, case, seed)
        if is_good(model, double, case, inputs):
            write_weights(folder, model, case)
            return seed
    raise SystemExit(f"{case.name}: no good seed among {SEEDS}")


def vision_layout(case: Case, grid: torch.Tensor) -> dict:
    """The order and the segments in which the vision tower attends."""
    window_index, cu_window_seqlens = get_vision_window_index(grid, 2, case.window, 14)
    return {
        "image_grid_thw": grid.tolist(),
        "window_index": window_index.tolist(),
        "cu_window_seqlens": cu_window_seqlens.tolist(),
        "cu_seqlens": get_vision_cu_seqlens(grid).tolist(),
    }


def positions(model, inputs: dict) -> tuple[list[list[int]], int]:
    """The three rows of rotary positions and their offset while decoding."""
    length = inputs["input_ids"].shape[1]
    if "image_grid_thw" not in inputs:
        return torch.arange(length).expand(3, -1).tolist(), 0
    ids, delta = model.model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
    )
    return ids[:, 0].tolist(), delta.item()


def embeddings(model, inputs: dict, features: torch.Tensor) -> torch.Tensor:
    """The decoder's input: token embeddings with image features in place of image tokens."""
    ids = inputs["input_ids"][0]
    rows = model.get_input_embeddings()(ids).clone()
    rows[ids == special_id("<|image_pad|>")] = features
    return rows


def image_tensors(model, case: Case, name: str, inputs: dict) -> dict[str, torch.Tensor]:
    """Expected pixels, features and embeddings of a prompt with images."""
    pixels = inputs["pixel_values"]
    features = image_features(model, inputs)
    tensors = {"image_features": features, "pixel_samples": pixels.flatten()[::PIXEL_STRIDE].clone()}
    if case.all_logits and name == "one_image":
        tensors["pixel_values"] = pixels
    if case.keep_embeds and name == "three_images":
        tensors["inputs_embeds"] = embeddings(model, inputs, features)
    return tensors


def expectations(model, processor, case: Case, name: str, messages: list[dict]) -> tuple[dict, dict]:
    """All that is expected of one prompt: a JSON object and tensors."""
    rendered, inputs = prepare(processor, messages)
    greedy = record.greedy(model, inputs)
    position_ids, delta = positions(model, inputs)
    summary = {
        "messages": messages,
        "text": rendered,
        "input_ids": inputs["input_ids"][0].tolist(),
        "position_ids": position_ids,
        "rope_delta": delta,
    }
    tensors = {}
    if name not in SIZED_PROMPTS:
        tensors["step_logits"] = greedy.thinned()
        if case.all_logits and name in {"text", "three_images"}:
            tensors["prompt_logits"] = model(**inputs).logits[0]
    if "pixel_values" in inputs:
        summary["images"] = image_paths(messages)
        summary |= vision_layout(case, inputs["image_grid_thw"])
        summary["first_step_changed_without_image"] = first_change(model, inputs, greedy.ids)
        tensors |= image_tensors(model, case, name, inputs)
    summary["greedy_ids"] = greedy.ids
    summary["greedy_text"] = processor.tokenizer.decode(greedy.ids, skip_special_tokens=True)
    summary["smallest_gap"] = greedy.gap()
    return summary, {f"{name}.{key}": tensor for key, tensor in tensors.items()}


def assert_telling(model, case: Case, inputs: dict[str, dict]) -> float:
    """Checks the written weights once more, and returns how far float32 is from float64."""
    assert layout_matters(model, case, inputs["three_images"]), "windows or positions do not matter"
    for name, prompt in inputs.items():
        greedy = record.greedy(model, prompt)
        assert is_telling(case, name, greedy), (name, greedy.ids, greedy.gap())
        assert "pixel_values" not in prompt or first_change(model, prompt, greedy.ids) is not None, name
    return exact.check(distances(model, exact.twin(model), inputs))


def make(case: Case) -> None:
    """Makes one case: files, weights, expectations, and a line about what was seen."""
    folder = FIXTURES / "tiny" / case.name
    write_files(folder, case)
    processor = load_processor(folder)
    inputs = {name: prepare(processor, messages)[1] for name, messages in PROMPTS.items()}
    seed = search(folder, case, inputs)
    model = load(folder)
    rounding = assert_telling(model, case, inputs)
    prompts, tensors = {}, {}
    for name, messages in PROMPTS.items():
        prompts[name], prompt_tensors = expectations(model, processor, case, name, messages)
        tensors |= prompt_tensors
    summary = {
        "case": case.name,
        "greedy_steps": record.GREEDY_STEPS,
        "smallest_gap": min(prompt["smallest_gap"] for prompt in prompts.values()),
        "prompts": prompts,
    }
    record.write_expected(folder, summary, tensors)
    report(case, seed, summary, rounding, folder)


def report(case: Case, seed: int, summary: dict, rounding: float, folder: Path) -> None:
    """Prints the facts that make a case telling."""
    prompts = summary["prompts"]
    changes = {name: prompt.get("first_step_changed_without_image") for name, prompt in prompts.items()}
    lengths = {name: len(prompt["input_ids"]) for name, prompt in prompts.items()}
    written = {name: len(set(prompt["greedy_ids"])) for name, prompt in prompts.items()}
    loud = {name: prompt["greedy_ids"].count(special_id("<|image_pad|>")) for name, prompt in prompts.items()}
    print(
        f"{case.name}: seed {seed}, smallest gap {summary['smallest_gap']:.4f}, "
        f"float32 within {rounding:.1e} of float64, {record.folder_size(folder) / 1024:.0f} KiB"
    )
    print(f"  prompt tokens {lengths}")
    print(f"  first step changed by blank images {changes}")
    print(f"  different tokens written {written}")
    print(f"  image tokens written {loud}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", help="cases to make (default: all)")
    chosen = parser.parse_args().case or [case.name for case in CASES]
    torch.set_num_threads(2)
    pictures.write_shared(FIXTURES / "images")
    with torch.inference_mode():
        for case in CASES:
            if case.name in chosen:
                make(case)


if __name__ == "__main__":
    main()
