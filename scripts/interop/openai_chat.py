"""Checks that OpenAI's Python client talks to a served bundle, and gets the texts that transformers wrote.

    pip install -r scripts/interop/openai-requirements.txt
    python scripts/interop/openai_chat.py LWV_WRITE BUNDLE CASE

LWV_WRITE is the program, with lwv-serve beside it. BUNDLE is a float32 bundle exported from the tiny multimodal checkpoint CASE
(a folder below tests/fixtures/tiny). Exits with 1 where anything is not as it must be.
"""

import argparse
import base64
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import openai

# The server must have stopped computing by then when its client is gone.
SOON = 0.25
# A text that takes much longer than any of this: words are held to.
ENDLESS = {"lwv": {"words": 100_000}}


@contextmanager
def served(program: Path, bundle: Path, token: str, *options: str):
    """The address of a server, which is interrupted at the end and must then end well."""
    server = subprocess.Popen(
        [program, "serve", bundle, "--listen", "127.0.0.1:0", "--model-name", "tiny", *options],
        env=os.environ | {"LWV_SERVE_TOKEN": token},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        address = server.stdout.readline().strip()
        assert address, "the server did not start"
        yield address
    finally:
        server.terminate()
        status = server.wait(timeout=60)
    assert status == 0, f"the server ended with status {status}"


def health(address: str) -> dict:
    """What the server says of itself."""
    with urllib.request.urlopen(address.removesuffix("/v1") + "/health") as response:
        return json.load(response)


def seconds_until_idle(address: str) -> float:
    """How long the server still writes."""
    begin = time.monotonic()
    while health(address)["writing"]:
        assert time.monotonic() - begin < 30, "the server goes on writing for nobody"
    return time.monotonic() - begin


def with_data_urls(messages: list[dict], fixtures: Path) -> list[dict]:
    """A recorded conversation as OpenAI's API wants it."""

    def part(recorded: dict) -> dict:
        if recorded["type"] != "image":
            return recorded
        picture = base64.b64encode((fixtures / recorded["image"]).read_bytes()).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}

    def message(recorded: dict) -> dict:
        content = recorded["content"]
        return recorded | {"content": content if isinstance(content, str) else [part(p) for p in content]}

    return [message(recorded) for recorded in messages]


def same_text(expected: str, got: str) -> bool:
    """Whether texts are equal, but for a character that the limit of tokens has cut off."""
    return expected.rstrip("\ufffd") == got.rstrip("\ufffd")


class Checks:
    """Runs checks and remembers whether one has failed."""

    def __init__(self) -> None:
        self.failed = False

    def that(self, name: str, passed: bool, seen: object = "") -> None:
        """Prints what was checked, and what was seen."""
        self.failed |= not passed
        print(f"  {'ok' if passed else 'FAILED'}  {name}" + (f": {seen}" if seen != "" or not passed else ""))

    def raises(self, name: str, kind: type[openai.APIError], code: str | None, call) -> None:
        """Checks that the client raises what it raises for OpenAI's service."""
        try:
            call()
        except kind as error:
            self.that(name, code is None or error.code == code, f"{kind.__name__}, {error.code}")
        else:
            self.that(name, False, f"no {kind.__name__}")


def check_texts(check: Checks, client: openai.OpenAI, prompts: dict, fixtures: Path) -> None:
    """Every recorded conversation, whole and as a stream."""
    for name, prompt in prompts.items():
        request = {
            "model": "tiny",
            "messages": with_data_urls(prompt["messages"], fixtures),
            "temperature": 0,
            "max_tokens": len(prompt["greedy_ids"]),
        }
        expected, tokens = prompt["greedy_text"], len(prompt["input_ids"])
        whole = client.chat.completions.create(**request)
        check.that(f"chat, {name}", same_text(expected, whole.choices[0].message.content), whole.choices[0].finish_reason)
        check.that(f"prompt tokens, {name}", whole.usage.prompt_tokens == tokens, whole.usage.prompt_tokens)
        stream = client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        check.that(f"stream, {name}", streamed == whole.choices[0].message.content, f"{len(chunks)} chunks")
        cached = chunks[-1].usage.prompt_tokens_details.cached_tokens
        check.that(f"asked again only the last token is computed, {name}", cached == tokens - 1, cached)


def check_settings(check: Checks, client: openai.OpenAI) -> None:
    """What a request may say, and what it may not."""
    create = client.chat.completions.create
    request = {"model": "tiny", "messages": [{"role": "user", "content": "Tell of the sea."}], "max_tokens": 24}

    def text(**more) -> str:
        return create(**request, **more).choices[0].message.content

    check.that("a seed repeats a text", text(seed=7, temperature=1.5) == text(seed=7, temperature=1.5))
    check.that("without a seed texts differ", text(temperature=1.5) != text(temperature=1.5))
    stop = text(temperature=0)[5:8]
    check.that("a stop text ends it", stop not in text(temperature=0, stop=[stop]), repr(stop))
    long = create(**request | {"max_tokens": None}, extra_body={"lwv": {"words": 120, "plan": True, "sections": 2}})
    headings = long.choices[0].message.content.count("## ")
    check.that("a long text is planned", headings == 2, f"{long.model_extra['lwv']['words']} words")

    refused = openai.BadRequestError
    check.raises("two answers", refused, "unsupported_value", lambda: text(n=2))
    check.raises("an unknown field", refused, "unknown_parameter", lambda: text(extra_body={"mirostat": 2}))
    check.raises("a temperature below 0", refused, "invalid_value", lambda: text(temperature=-1))
    far = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]
    check.raises("a picture elsewhere", refused, "image_not_fetched", lambda: create(model="tiny", messages=far))
    long_prompt = [{"role": "user", "content": "word " * 20_000}]
    too_long = "context_length_exceeded"
    check.raises("a long prompt", refused, too_long, lambda: create(model="tiny", messages=long_prompt))
    check.raises("another model", openai.NotFoundError, "model_not_found", lambda: create(model="x", messages=far))
    wrong = client.with_options(api_key="a-token-that-is-wrong")
    check.raises("a wrong key", openai.AuthenticationError, "invalid_api_key", wrong.models.list)


def check_cancelling(check: Checks, client: openai.OpenAI, address: str) -> None:
    """Clients that leave, and one that comes while another is written."""
    create = client.chat.completions.create
    endless = {"model": "tiny", "messages": [{"role": "user", "content": "Go on."}], "extra_body": ENDLESS}

    stream = create(**endless, stream=True)
    next(chunk for chunk in stream if chunk.choices[0].delta.content)
    check.raises("a second text beyond the queue", openai.RateLimitError, "queue_full", lambda: create(**endless))
    stream.close()
    seconds = seconds_until_idle(address)
    check.that("a stream that is closed is cancelled", seconds < SOON, f"{seconds * 1000:.0f} ms")

    impatient = client.with_options(timeout=1)
    call = impatient.chat.completions.create
    check.raises("a client that gives up", openai.APITimeoutError, None, lambda: call(**endless))
    seconds = seconds_until_idle(address)
    check.that("an answer that nobody waits for is cancelled", seconds < SOON, f"{seconds * 1000:.0f} ms")
    answer = create(model="tiny", messages=[{"role": "user", "content": "x"}], max_tokens=4)
    check.that("the next one is answered", answer.usage.completion_tokens == 4)


def main() -> int:
    """Runs all checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lwv_write", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("case", type=Path)
    arguments = parser.parse_args()
    prompts = json.loads((arguments.case / "expected.json").read_text())["prompts"]
    check, token = Checks(), secrets.token_hex(16)
    print(f"openai {openai.__version__}")
    with served(arguments.lwv_write.resolve(), arguments.bundle, token, "--queue", "0") as address:
        client = openai.OpenAI(base_url=address, api_key=token, max_retries=0)
        check.that("models", [model.id for model in client.models.list()] == ["tiny"])
        check_texts(check, client, prompts, arguments.case.parent.parent)
        check_settings(check, client)
        check_cancelling(check, client, address)
    return int(check.failed)


if __name__ == "__main__":
    sys.exit(main())
