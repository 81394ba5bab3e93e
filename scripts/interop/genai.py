"""Checks that onnxruntime-genai runs a bundle and writes the tokens that transformers wrote.

    pip install -r scripts/interop/requirements.txt
    python scripts/interop/genai.py BUNDLE CASE

BUNDLE is a float32 bundle exported from the tiny checkpoint CASE (a folder below tests/fixtures/tiny).
Exits with 1 on a difference.
"""

import argparse
import json
import sys
from pathlib import Path

import onnxruntime_genai as og

PROMPTS = ["text", "one_sized", "three_sized"]


def first_difference(expected: list[int], got: list[int]) -> int | None:
    """The first index at which two lists differ, the end of the shorter one included."""
    if expected == got:
        return None
    return next((i for i, (a, b) in enumerate(zip(expected, got)) if a != b), min(len(expected), len(got)))


def describe(what: str, expected: list[int], got: list[int]) -> str | None:
    """A sentence about the first difference of two lists of ids, or None."""
    index = first_difference(expected, got)
    if index is None:
        return None
    return f"{what} {index}: expected {expected[index : index + 1]}, got {got[index : index + 1]}"


def start(model: og.Model, length: int) -> og.Generator:
    """A greedy generator for a prompt and its answer of `length` tokens together."""
    params = og.GeneratorParams(model)
    params.set_search_options(do_sample=False, repetition_penalty=1.0, max_length=length)
    return og.Generator(model, params)


def decode(generator: og.Generator, steps: int) -> list[int]:
    """Up to `steps` greedy tokens."""
    ids = []
    while len(ids) < steps and not generator.is_done():
        generator.generate_next_token()
        ids.append(int(generator.get_next_tokens()[0]))
    return ids


def template_problem(tokenizer: og.Tokenizer, prompt: dict) -> str | None:
    """Whether the bundle's chat template renders the prompt otherwise."""
    rendered = tokenizer.apply_chat_template(json.dumps(prompt["messages"]), add_generation_prompt=True)
    return (
        None
        if rendered == prompt["text"]
        else f"chat template: expected {prompt['text']!r}, got {rendered!r}"
    )


def check_tokens(model: og.Model, prompt: dict, steps: int) -> str | None:
    """Decodes a text prompt from token ids."""
    ids = og.Tokenizer(model).encode(prompt["text"]).tolist()
    problem = describe("prompt id", prompt["input_ids"], ids)
    if problem:
        return problem
    generator = start(model, len(ids) + steps)
    generator.append_tokens(ids)
    return describe("step", prompt["greedy_ids"][:steps], decode(generator, steps))


def check_processor(model: og.Model, fixtures: Path, prompt: dict, steps: int) -> str | None:
    """Decodes a prompt, with its pictures if it has any, through the multimodal processor."""
    paths = [str(fixtures / path) for path in prompt.get("images", [])]
    images = og.Images.open(*paths) if paths else None
    inputs = model.create_multimodal_processor()(prompt["text"], images=images)
    ids = inputs["input_ids"].as_numpy().flatten().tolist()
    problem = describe("prompt id", prompt["input_ids"], ids)
    if problem:
        return problem
    generator = start(model, len(ids) + steps)
    generator.set_inputs(inputs)
    return describe("step", prompt["greedy_ids"][:steps], decode(generator, steps))


def report(name: str, problem: str | None) -> bool:
    """Prints one line, and says whether all is well."""
    print(f"{name}: {problem or 'equal'}")
    return problem is None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("case", type=Path, help="the tiny checkpoint that the bundle was exported from")
    parser.add_argument("--steps", type=int, default=48, help="greedy tokens to compare (default: 48)")
    arguments = parser.parse_args()
    fixtures = arguments.case.resolve().parents[1]
    prompts = json.loads((arguments.case / "expected.json").read_text())["prompts"]
    model = og.Model(str(arguments.bundle))
    tokenizer = og.Tokenizer(model)
    results = [report("text, by token ids", check_tokens(model, prompts["text"], arguments.steps))]
    for name in PROMPTS:
        results.append(report(f"{name}, template", template_problem(tokenizer, prompts[name])))
        results.append(report(name, check_processor(model, fixtures, prompts[name], arguments.steps)))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
