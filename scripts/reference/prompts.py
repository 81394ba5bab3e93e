"""Records chat prompts as transformers renders them, and token ids of mixed strings.

    pip install -r scripts/reference/requirements.txt
    python scripts/reference/tiny_qwen2_5_vl.py
    python scripts/reference/prompts.py

Writes tests/fixtures/processor/chat.json (two templates: Qwen2.5-VL's, and SmolLM2's from
tests/fixtures/smollm2) and tests/fixtures/processor/tokens.json (strings through the tiny tokenizer).
"""

import random
import tempfile
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import record
import tiny_tokenizer

FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures"

CONVERSATIONS = [
    [{"role": "user", "content": "Hello."}],
    [{"role": "system", "content": "You write."}, {"role": "user", "content": "A story, please."}],
    [{"role": "system", "content": "Only a system message."}],
    [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "  Three, with spaces  \n"},
    ],
    [{"role": "user", "content": "Last word?"}, {"role": "assistant", "content": "Mine."}],
    [
        {"role": "user", "content": '<|im_end|> "quoted" {{ braces }} & <tags> 河 🚀\r\nline'},
        {"role": "assistant", "content": ""},
    ],
    [
        {
            "role": "user",
            "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}],
        }
    ],
    [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Between "},
                {"type": "image", "image": "a.png"},
                {"type": "text", "text": " and "},
                {"type": "image", "image": "b.png"},
                {"type": "text", "text": "."},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "A river."}]},
        {
            "role": "user",
            "content": [{"type": "image", "image": "c.png"}, {"type": "text", "text": "And this?"}],
        },
    ],
    [
        {"role": "system", "content": [{"type": "text", "text": "You see."}]},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "a.png"}},
                {"type": "text", "text": "See?"},
            ],
        },
    ],
    [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "Watch."}]}],
]

FRAGMENTS = [
    "the river",
    " house",
    "Story",
    "don't",
    "THEY'LL",
    "I'Ve",
    "naïve",
    "cafe\u0301",
    "Zu\u0308rich",
    "A\u030a",
    "한국어",
    "\u1112\u1161\u11ab",
    "日本語",
    "中文。",
    "か\u3099",
    "русский",
    "العربية",
    "हिन्दी",
    "🚀",
    "👩‍👩‍👧",
    "🇩🇪",
    "1234567",
    "3.14",
    "½",
    "²",
    "Ⅷ",
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    "\n \r\n  ",
    "\u00a0",
    "\u3000",
    "\u200b",
    "!?",
    "...",
    "—",
    "(x)",
    "{}",
    "_a_b",
    "<|im_start|>",
    "<|im_end|>\n",
    "<|vision_start|><|image_pad|><|vision_end|>",
    "<|image_pad",
    "<|endoftext|>",
    "\u0000",
    "\ufeff",
    "\ufb01",
    "Ω",
    "\u2126",
    "ß",
]

FIXED_STRINGS = [
    "",
    " ",
    "\n",
    "a",
    "e\u0301",
    "\r\n\r\n",
    "a\n \r\n  b",
    "word  \n  word",
    "x\u0301\u0323",
    "<|im_start|><|im_start|>",
]


def strings(count: int) -> list[str]:
    """The fixed strings, then random joins of the fragments."""
    generator = random.Random(7)
    joined = [
        "".join(generator.choices(FRAGMENTS, k=generator.randint(1, 7)))
        for _ in range(count - len(FIXED_STRINGS))
    ]
    return FIXED_STRINGS + joined


def render(
    tokenizer: PreTrainedTokenizerBase, template: str, conversation: list[dict], **options
) -> str | None:
    """A rendered conversation, or None where the template knows no content parts."""
    if "is string" not in template and any(
        not isinstance(message["content"], str) for message in conversation
    ):
        return None
    return tokenizer.apply_chat_template(conversation, chat_template=template, tokenize=False, **options)


def chat(tokenizer: PreTrainedTokenizerBase) -> dict:
    """Every conversation through both templates, with and without the opening of an answer."""
    templates = {
        "qwen2_5_vl": tiny_tokenizer.CHAT_TEMPLATE,
        "smollm2": (FIXTURES / "smollm2" / "chat_template.jinja").read_text(),
    }
    cases = []
    for conversation in CONVERSATIONS:
        case = {"messages": conversation}
        for name, template in templates.items():
            case[name] = {
                "plain": render(tokenizer, template, conversation, add_generation_prompt=False),
                "generation": render(tokenizer, template, conversation, add_generation_prompt=True),
            }
        numbered = render(
            tokenizer, templates["qwen2_5_vl"], conversation, add_generation_prompt=True, add_vision_id=True
        )
        case["qwen2_5_vl"]["numbered"] = numbered
        cases.append(case)
    return {"templates": templates, "conversations": cases}


def tokens(tokenizer: PreTrainedTokenizerBase, plain: Tokenizer) -> list[dict]:
    """Ids of every string, the same by transformers and the tokenizers library, and their text."""
    rows = []
    for text in strings(100):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == plain.encode(text, add_special_tokens=False).ids, text
        rows.append(
            {
                "text": text,
                "ids": ids,
                "decoded": plain.decode(ids, skip_special_tokens=True),
                "decoded_with_special": plain.decode(ids, skip_special_tokens=False),
            }
        )
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_tokenizer.write(folder, published=True)
        (folder / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
        tokenizer = AutoTokenizer.from_pretrained(folder)
        plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    processor = FIXTURES / "processor"
    processor.mkdir(parents=True, exist_ok=True)
    record.write_json(processor / "chat.json", chat(tokenizer))
    record.write_json(processor / "tokens.json", tokens(tokenizer, plain))
    print(f"{len(CONVERSATIONS)} conversations, {len(strings(100))} strings")


if __name__ == "__main__":
    main()
