"""Which tokens of a conversation training asks for: what an assistant writes, and nothing else.

As LLaMA-Factory does it: everything that the chat template puts after the generation prompt of an assistant's
turn is a label, which are the content, the token that ends the turn, and the newline that follows it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from PIL import Image

from conversations import FIXTURES

IGNORED = -100
IMAGE_TOKEN = "<|image_pad|>"


@dataclass
class Sample:
    """One conversation: the model's inputs, and labels of the same length."""

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor

    def tokens(self) -> int:
        """How many tokens are asked for."""
        return int((self.labels != IGNORED).sum())

    def summary(self) -> dict:
        """What is recorded of every sample."""
        return {"input_ids": self.inputs["input_ids"][0].tolist(), "labels": self.labels[0].tolist()}


def segments(render: Callable[..., str], messages: list[dict]) -> Iterator[tuple[str, bool]]:
    """The rendered conversation in pieces, and whether each is asked for."""
    whole = render(messages)
    end = 0
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(messages[:index], add_generation_prompt=True)
        after = render(messages[: index + 1])
        assert after.startswith(before) and whole.startswith(after), (before, after, whole)
        yield whole[end : len(before)], False
        yield after[len(before) :], True
        end = len(after)
    assert end == len(whole), "the last turn is not the assistant's"


def label(tokenizer, pieces: list[tuple[str, bool]], input_ids: torch.Tensor) -> torch.Tensor:
    """The labels; the pieces' tokens, one after another, have to be those of the whole."""
    ids, labels = [], []
    for piece, is_asked in pieces:
        piece_ids = tokenizer(piece, add_special_tokens=False)["input_ids"]
        ids += piece_ids
        labels += piece_ids if is_asked else [IGNORED] * len(piece_ids)
    assert ids == input_ids[0].tolist(), "a token reaches over the border of a turn"
    return torch.tensor([labels])


def text_sample(tokenizer, messages: list[dict]) -> Sample:
    """A conversation without pictures."""

    def render(part: list[dict], **options) -> str:
        return tokenizer.apply_chat_template(part, tokenize=False, **options)

    input_ids = tokenizer(render(messages), return_tensors="pt")["input_ids"]
    return Sample({"input_ids": input_ids}, label(tokenizer, list(segments(render, messages)), input_ids))


def picture_sample(processor, messages: list[dict]) -> Sample:
    """A conversation that may have pictures, whose paths are relative to tests/fixtures."""

    def render(part: list[dict], **options) -> str:
        return processor.apply_chat_template(part, tokenize=False, **options)

    paths = [
        part["image"]
        for message in messages
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image"
    ]
    images = [Image.open(FIXTURES / path).convert("RGB") for path in paths]
    inputs = dict(processor(text=[render(messages)], images=images or None, return_tensors="pt"))
    grids = inputs.get("image_grid_thw", torch.empty(0, 3, dtype=torch.long))
    counts = iter((grids.prod(-1) // processor.image_processor.merge_size**2).tolist())
    pieces = [(expand(piece, counts), is_asked) for piece, is_asked in segments(render, messages)]
    return Sample(inputs, label(processor.tokenizer, pieces, inputs["input_ids"]))


def expand(piece: str, counts: Iterator[int]) -> str:
    """Repeats the token of each picture as often as the picture has merged patches."""
    before, *others = piece.split(IMAGE_TOKEN)
    return before + "".join(IMAGE_TOKEN * next(counts) + other for other in others)
