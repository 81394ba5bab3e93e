"""Writes the pairs of answers that preference training is tested with, and reads them as TRL does.

    python scripts/reference/preferences.py

Writes tests/fixtures/dpo/tiny.jsonl (with pictures) and tests/fixtures/dpo/text.jsonl (without), in LLaMA-Factory's spelling of
ranked ShareGPT. Paths of images are relative to tests/fixtures. Writing needs nothing but Python.
"""

import json
from pathlib import Path

import conversations
from conversations import FIXTURES, IMAGE, PLACEHOLDER, ROLES, sharegpt, text

FOLDER = FIXTURES / "dpo"


def answered(conversation: dict, chosen: str, rejected: str) -> dict:
    """Two answers to a conversation that ends with a question."""
    return conversation | {"chosen": {"from": "gpt", "value": chosen}, "rejected": {"from": "gpt", "value": rejected}}


def pair(asked: str, chosen: str, rejected: str, images: list[str] | None = None) -> dict:
    """Two answers to one question, pictures first."""
    return answered(sharegpt(PLACEHOLDER * len(images or []) + asked, images=images), chosen, rejected)


DECK = ["a_64x48", "b_100x60", "c_37x91"]
REVISED = ["The first picture shows a house beside the river.", "The second one is larger.", "The third has 42 houses."]
ORIGINAL = ["The first picture shows a garden.", "The second one is larger.", "There are 17 houses, and a garden, in it."]


def prefix(last: int) -> dict:
    """The pair of the first pages of a deck."""
    texts = ["\n\n".join(pages[:last]) for pages in (REVISED, ORIGINAL)]
    return pair("Write about these pictures.", *texts, images=DECK[:last])


TINY = [
    prefix(1),
    prefix(2),
    prefix(3),
    pair("What is in the picture?", "A house and the garden.", "Nothing, and nothing.", ["d_28x28"]),
    pair("写图片。", "图片里有一座房子和一条河。", "图片里没有房子。", ["f_160x130"]),
    pair("Compare them.", "The first is smaller.", "Both are naïve, and both are long stories about one river.", DECK[:2]),
    pair("Describe the picture.", "It is long: " + "the river, " * 6 + "and the garden.", "It is long.", ["e_140x56"]),
    pair("Describe it.", "The river stood in the garden.", "The river stood in the sky.", ["a_64x48"]),
    answered(
        sharegpt(
            "<image>\nWhat is in the picture?",
            "A house and the garden.",
            "Then write about the garden.",
            images=["c_37x91"],
            system="You describe pictures.",
        ),
        "The garden is long, and the river is in the garden.",
        "The garden is in the sky.",
    ),
    answered(
        sharegpt("Compare the first <image> with the second <image>, please.", images=["sized_56x56", "d_28x28"]),
        "The first one is larger.",
        "The second one is larger than the first, and than the river beside it.",
    ),
    pair("Hi", "Hello!", "What is a house beside these?"),
    answered(
        sharegpt("Are you a helpful assistant?", "I am.", "Then describe this: <image>", images=["b_100x60"]),
        "It is a picture of 3 houses — “the river”, they say.",
        "It is 😀.",
    ),
]

TEXT = [
    pair(
        "How did lighthouses guide ships?",
        "Before radio, a steady light on a dangerous coast told sailors where the rocks were. Each tower had its own rhythm.",
        "Lighthouses were invented in 1990 to guide aeroplanes. Each tower had its own rhythm.",
    ),
    pair(
        "Write two paragraphs about tea.",
        "Tea comes from one plant, whose leaves are dried in many ways.\n\nGreen tea is heated soon after the harvest, black tea late.",
        "Tea comes from two plants, whose leaves are dried in many ways.\n\nGreen tea is painted.",
    ),
    pair(
        "Write two paragraphs about tea.",
        "Tea comes from one plant, whose leaves are dried in many ways.",
        "Tea comes from two plants, whose leaves are dried in many ways.",
    ),
    pair("State the numbers: 4312 ships, 276 berths.", "There are 4312 ships and 276 berths.", "There are 4321 ships and 276 berths."),
    pair(
        "Describe a harbour in the morning.",
        "Fog lies over the water until the sun is high enough to warm it. Gulls quarrel over the nets.",
        "A harbour. A harbour. A harbour. A harbour. A harbour. A harbour. A harbour. A harbour. A harbour.",
    ),
    pair("写一句关于河的话。", "河水慢慢地流过村庄。", "河。"),
    pair("Name a colour.", "Blue.", "Blue is a number between three and four, as everybody knows who has counted colours at night."),
    pair("Continue: once upon a time", "there was a house beside a river, and nobody lived in it.", "there was."),
]


def spoken(record: dict, key: str) -> list[dict]:
    """An answer of a pair as a list of one message."""
    return [{"role": ROLES[record[key]["from"]], "content": record[key]["value"]}]


def typed(message: dict) -> dict:
    """A message as a list of parts, which a column has to have in common; TRL itself puts the pictures into their places."""
    content = message["content"]
    parts = [text(content)] if isinstance(content, str) else [part if part["type"] == "text" else IMAGE for part in content]
    return message | {"content": parts}


def read(name: str, load_image=None) -> list[dict]:
    """The pairs of a file as TRL takes them: messages, and the pictures that `load_image` makes of paths."""
    rows = []
    for line in (FOLDER / name).read_text().splitlines():
        record = json.loads(line)
        row = {"prompt": conversations.messages(record)} | {key: spoken(record, key) for key in ("chosen", "rejected")}
        if load_image:
            row["prompt"] = [typed(message) for message in row["prompt"]]
            row["images"] = [load_image(FIXTURES / path) for path in record.get("images", [])]
        rows.append(row)
    return rows


def write(path: Path, records: list[dict]) -> None:
    """Writes one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


if __name__ == "__main__":
    write(FOLDER / "tiny.jsonl", TINY)
    write(FOLDER / "text.jsonl", TEXT)
