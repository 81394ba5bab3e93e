"""Writes the conversations that training is tested with, and reads them as messages of a chat template.

    python scripts/reference/conversations.py

Writes tests/fixtures/sft/tiny.jsonl (pictures and text, in the spellings of ShareGPT and OpenAI) and
tests/fixtures/sft/text.jsonl (text only). Paths of images are relative to tests/fixtures. Needs nothing
but Python.
"""

import json
from pathlib import Path

FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures"
FOLDER = FIXTURES / "sft"
PLACEHOLDER = "<image>"
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def sharegpt(*turns: str, images: list[str] | None = None, system: str | None = None) -> dict:
    """A conversation as ShareGPT spells it: human and gpt take turns."""
    speakers = ["human", "gpt"] * len(turns)
    record = {"conversations": [{"from": who, "value": said} for who, said in zip(speakers, turns)]}
    if images:
        record["images"] = [f"images/{name}.png" for name in images]
    return record | ({"system": system} if system else {})


def openai(*turns: str | list[dict], images: list[str] | None = None, system: str | None = None) -> dict:
    """A conversation as OpenAI spells it: each content is text or a list of parts."""
    speakers = ["user", "assistant"] * len(turns)
    messages = [{"role": who, "content": said} for who, said in zip(speakers, turns)]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    record = {"messages": messages}
    return record | ({"images": [f"images/{name}.png" for name in images]} if images else {})


def text(content: str) -> dict:
    """A text part of a message."""
    return {"type": "text", "text": content}


IMAGE = {"type": "image"}

TINY = [
    sharegpt(
        "<image><image>Compare the first picture with the second.",
        "The first picture shows a house beside the river; the second one is larger.",
        images=["a_64x48", "b_100x60"],
    ),
    openai(
        "Write a story about the river, naïve: 河, 42 houses.",
        "The story begins in the garden.\n\nThen 42 houses stood beside the river 河, and one was naïve.",
        system="You write.",
    ),
    sharegpt(
        "<image>\nWhat is in the picture?",
        "A house and the garden.",
        "Then write about the garden.",
        "The garden is long, and the river is in the garden.",
        images=["c_37x91"],
        system="You describe pictures.",
    ),
    openai(
        [text("Describe "), IMAGE, text(" and write a long story.")],
        [text("The picture shows the river.")],
        images=["f_160x130"],
    ),
    sharegpt("Hi", "Hello!"),
    openai(
        "The first <image>, the second <image> and the third <image>: what is in these pictures?",
        "There are three pictures. The first shows a house, the second the garden, and the third one shows "
        "the river.\n\n1. The house is larger than the garden.\n2. The garden is beside the river.\n"
        "3. The river is a long story; the story begins in the third picture.",
        images=["sized_56x56", "sized_84x56", "e_140x56"],
    ),
    sharegpt(
        "Are you a helpful assistant?",
        "I am.",
        "Then describe this: <image>",
        "It is a picture of 3 houses — “the river”, they say. 😀",
        images=["d_28x28"],
    ),
    openai(
        [IMAGE, text(" first, "), IMAGE, text(" second. Write.")],
        "The story of the house and the river. The house stood beside the river, and in the garden of the "
        "house there was a second house; then the river was larger than the garden. What is a house beside "
        "these? The assistant describes the pictures, compares the first with the second, and writes: the "
        "river begins in the third garden.\n\nThe end.",
        images=["sized_56x112", "a_64x48"],
        system="You are a writer.",
    ),
]

TEXT = [
    sharegpt(
        "How did lighthouses guide ships?",
        "Before radio, a steady light on a dangerous coast told sailors where the rocks were. Each tower had "
        "its own rhythm of flashes, so that a captain could look it up in a book and know his position.",
    ),
    openai(
        "Describe a harbour in the morning.",
        "Fog lies over the water until the sun is high enough to warm it. Gulls quarrel over the nets, and the "
        "first boats come home with their lamps still burning.",
        system="You write short, vivid prose.",
    ),
    sharegpt("Say one word.", "Lighthouse."),
    openai(
        "Who invented the printing press?",
        "Johannes Gutenberg, in Mainz, around 1450.",
        "Why did it matter?",
        "Books became cheap enough for merchants and students, and an error that was corrected once stayed "
        "corrected in a thousand copies.",
    ),
    sharegpt(
        "Explain why tea is drunk in so many countries.",
        "Tea travels well: the dried leaves are light, keep for months and need only hot water. Traders carried "
        "them along the Silk Road and later by sea, and every country added something of its own, from butter "
        "in Tibet to lemon in Russia, mint in Morocco and milk in England.",
    ),
    openai("List three rivers.", "1. The Danube\n2. The Nile\n3. The Mekong"),
    sharegpt(
        "Write the first sentence of a novel about a clockmaker.",
        "On the morning that every clock in the town struck thirteen, old Matthias was already awake, counting.",
        system="You are a novelist.",
    ),
    openai(
        [text("Summarise: "), text("the bridge was closed after the storm because two of its piers had moved.")],
        "The storm shifted two piers, so the bridge is closed.",
    ),
]


def parts(content: str | list[dict], images: list[str]) -> str | list[dict]:
    """The content of a message with each placeholder or bare image part given the next path; text stays text."""
    if isinstance(content, str):
        pieces = content.split(PLACEHOLDER)
        content = [text(pieces[0])] + [part for piece in pieces[1:] for part in (IMAGE, text(piece))]
    if all(part["type"] == "text" for part in content):
        return "".join(part["text"] for part in content)
    return [
        {"type": "image", "image": images.pop(0)} if part["type"] == "image" else part
        for part in content
        if part != text("")
    ]


def messages(record: dict) -> list[dict]:
    """A line of either spelling as the messages that a chat template takes."""
    images = list(record.get("images", []))
    if "conversations" in record:
        turns = [(ROLES[turn["from"]], turn["value"]) for turn in record["conversations"]]
    else:
        turns = [(message["role"], message["content"]) for message in record["messages"]]
    if "system" in record:
        turns.insert(0, ("system", record["system"]))
    result = [{"role": role, "content": parts(content, images)} for role, content in turns]
    assert not images, f"placeholders are missing for {images}"
    return result


def read(name: str) -> list[list[dict]]:
    """The conversations of one file of tests/fixtures/sft."""
    return [messages(json.loads(line)) for line in (FOLDER / name).read_text().splitlines()]


def write(name: str, records: list[dict]) -> None:
    """Writes one conversation a line."""
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (FOLDER / name).write_text("\n".join(lines) + "\n")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    write("tiny.jsonl", TINY)
    write("text.jsonl", TEXT)


if __name__ == "__main__":
    main()
