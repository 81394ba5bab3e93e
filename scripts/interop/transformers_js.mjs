// Checks that transformers.js runs a bundle and writes the tokens that transformers wrote.
//
//     ONNXRUNTIME_NODE_INSTALL=skip ONNXRUNTIME_NODE_INSTALL_CUDA=skip npm install
//     node transformers_js.mjs BUNDLE CASE [STEPS]
//
// BUNDLE is a float32 bundle exported from the tiny checkpoint CASE (a folder below tests/fixtures/tiny).
// Exits with 1 on a difference.

import { readFileSync } from "node:fs";
import path from "node:path";
import process from "node:process";
import { AutoProcessor, Qwen2_5_VLForConditionalGeneration, RawImage, cat, env } from "@huggingface/transformers";

const IMAGE_TOKEN = "<|image_pad|>";

/** A sentence about the first difference of two lists of ids, or null. */
function difference(what, expected, got) {
  const length = Math.max(expected.length, got.length);
  for (let index = 0; index < length; index += 1) {
    if (expected[index] !== got[index]) {
      return `${what} ${index}: expected ${expected[index]}, got ${got[index]}`;
    }
  }
  return null;
}

/** The ids of an int64 tensor as plain numbers. */
function plainIds(tensor) {
  return Array.from(tensor.data, Number);
}

/** Inputs of a prompt without pictures. */
function textInputs(processor, text) {
  return processor.tokenizer(text, { add_special_tokens: false });
}

/** Inputs of a prompt with one picture, by the processor itself. */
async function oneImageInputs(processor, text, file) {
  return processor(text, await RawImage.read(file));
}

/** Inputs of a prompt with several pictures, which are prepared one by one. */
async function severalImageInputs(processor, text, files) {
  const parts = [];
  for (const file of files) {
    parts.push(await processor.image_processor(await RawImage.read(file)));
  }
  const grids = parts.map((part) => plainIds(part.image_grid_thw));
  const mergeSize = processor.image_processor.merge_size;
  const [head, ...tails] = text.split(IMAGE_TOKEN);
  const expanded = tails.reduce((prompt, tail, index) => {
    const [time, height, width] = grids[index];
    return prompt + IMAGE_TOKEN.repeat((time * height * width) / mergeSize ** 2) + tail;
  }, head);
  return {
    ...textInputs(processor, expanded),
    pixel_values: cat(parts.map((part) => part.pixel_values), 0),
    image_grid_thw: cat(parts.map((part) => part.image_grid_thw), 0),
  };
}

/** Greedy tokens after the prompt. */
async function decode(model, inputs, steps) {
  const output = await model.generate({
    ...inputs,
    max_new_tokens: steps,
    do_sample: false,
    repetition_penalty: 1.0,
  });
  return plainIds(output).slice(inputs.input_ids.dims[1]);
}

/** Whether the bundle's chat template renders the prompt otherwise; null if not. */
function templateProblem(processor, prompt) {
  const options = { tokenize: false, add_generation_prompt: true };
  const rendered = processor.tokenizer.apply_chat_template(prompt.messages, options);
  const [expected, got] = [prompt.text, rendered].map((text) => JSON.stringify(text));
  return expected === got ? null : `chat template: expected ${expected}, got ${got}`;
}

/** Compares one prompt, ids first, then tokens. */
async function check(model, prompt, inputs, steps) {
  return (
    difference("prompt id", prompt.input_ids, plainIds(inputs.input_ids)) ??
    difference("step", prompt.greedy_ids.slice(0, steps), await decode(model, inputs, steps))
  );
}

/** Prints one line, and says whether all is well. */
function report(name, problem) {
  console.log(`${name}: ${problem ?? "equal"}`);
  return problem === null;
}

async function main() {
  const [bundle, folder, count = "48"] = process.argv.slice(2);
  if (!bundle || !folder) {
    console.error("usage: node transformers_js.mjs BUNDLE CASE [STEPS]");
    return 2;
  }
  const root = path.resolve(bundle);
  const fixtures = path.resolve(folder, "..", "..");
  const steps = Number(count);
  const { prompts } = JSON.parse(readFileSync(path.join(folder, "expected.json"), "utf8"));

  env.allowRemoteModels = false;
  env.localModelPath = path.dirname(root) + path.sep;
  const id = path.basename(root);
  const processor = await AutoProcessor.from_pretrained(id);
  const model = await Qwen2_5_VLForConditionalGeneration.from_pretrained(id, { dtype: "fp32" });

  const files = (prompt) => prompt.images.map((file) => path.join(fixtures, file));
  const { text, one_sized: one, three_sized: three } = prompts;
  const cases = {
    text: [text, textInputs(processor, text.text)],
    one_sized: [one, await oneImageInputs(processor, one.text, files(one)[0])],
    three_sized: [three, await severalImageInputs(processor, three.text, files(three))],
  };
  const results = [];
  for (const [name, [prompt, inputs]] of Object.entries(cases)) {
    results.push(report(`${name}, template`, templateProblem(processor, prompt)));
    results.push(report(name, await check(model, prompt, inputs, steps)));
  }
  return results.every(Boolean) ? 0 : 1;
}

process.exitCode = await main();
