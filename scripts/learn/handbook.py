"""Makes a supervised dataset of the sections of the Debian Administrator's Handbook.

    python3 scripts/learn/handbook.py HTML OUT

HTML is the folder of the English pages, OUT gets train.jsonl and held-out.jsonl: chapters are held out whole.
"""
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

HELD_OUT = ["Chapter 3", "Chapter 7", "Chapter 13"]
WORDS = range(80, 601)

VOID = {"br", "hr", "img", "meta", "link", "col"}
# What is no running text: other sections, notes beside the text, figures, addresses of pages, what only print needs.
SKIPPED = {"section", "sidebar", "titlepage", "figure", "mediaobject", "url", "toc", "highlights", "footnotes", "table"}


class Element:
    def __init__(self, tag, attributes):
        self.tag, self.classes, self.attributes = tag, (attributes.get("class") or "").split(), attributes
        self.children = []

    def find_all(self, wanted):
        for child in self.children:
            if isinstance(child, Element):
                if wanted(child):
                    yield child
                yield from child.find_all(wanted)


class Page(HTMLParser):
    """The elements of a page; they are well nested, for the pages are XHTML."""

    def __init__(self, text):
        super().__init__()
        self.open = [Element("page", {})]
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        element = Element(tag, dict(attributes))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.open[-1].children.append(Element(tag, dict(attributes)))

    def handle_endtag(self, tag):
        if self.open[-1].tag == tag:
            self.open.pop()

    def handle_data(self, text):
        self.open[-1].children.append(text)


def inline(element):
    """Running text as Markdown, on one line."""
    text = ""
    for child in element.children:
        if isinstance(child, str):
            text += child
        elif SKIPPED.isdisjoint(child.classes) and not is_block(child):
            text += mark(child)
    return re.sub(r"\s+", " ", text)


def mark(element):
    words = inline(element)
    if element.tag == "code" and words.strip():
        return "`" + words.replace("`", "").replace("*", "").strip() + "`"
    if element.tag == "sup":
        return f"^{words}"
    if element.tag in ("em", "strong") and words.strip() and "`" not in words and "*" not in words:
        return f"*{words.strip()}*"
    return words


def is_block(element):
    return element.tag in ("ul", "ol", "dl", "pre", "table") or (element.tag == "div" and "url" not in element.classes)


def raw(element):
    """Text of a listing, as it stands."""
    return "".join(child if isinstance(child, str) else raw(child) for child in element.children)


def blocks(element):
    """Paragraphs, lists and listings as Markdown."""
    words = inline(element).strip()
    if words and element.tag != "dl":
        yield words
    for child in element.children:
        if isinstance(child, str) or not SKIPPED.isdisjoint(child.classes) or not is_block(child):
            continue
        if child.tag == "pre":
            yield "```\n" + raw(child).strip("\n") + "\n```"
        elif child.tag in ("ul", "ol"):
            yield "\n".join("- " + "\n\n  ".join(blocks(item)) for item in child.find_all(lambda e: e.tag == "li"))
        elif child.tag == "dl":
            for entry in child.children:
                if isinstance(entry, Element):
                    text = "\n\n".join(blocks(entry))
                    yield f"**{text}**" if entry.tag == "dt" and "`" not in text else text
        else:
            yield from blocks(child)


def section_text(section):
    return "\n\n".join(block for block in blocks(section) if block.strip())


def title_of(element):
    headings = element.find_all(lambda e: re.fullmatch(r"h[1-6]", e.tag) and "title" in e.classes)
    heading = next(headings, None)
    return re.sub(r"\s+", " ", raw(heading)).strip() if heading else ""


def chapter_of(page):
    """`Chapter 6. Maintenance and Updates`: the page's own title, or that of the page above it."""
    own = next(page.find_all(lambda e: not {"chapter", "appendix"}.isdisjoint(e.classes) and e.tag == "div"), None)
    above = next(page.find_all(lambda e: e.tag == "link" and e.attributes.get("rel") == "up"), None)
    title = title_of(own) if own else above.attributes.get("title", "") if above else ""
    return title.replace("\u00a0", " ")


def samples(folder):
    """Pairs of a chapter's number, and a conversation, in the order of the chapters."""
    for path in sorted(folder.glob("*.html")):
        page = Page(path.read_text(encoding="utf-8")).open[0]
        numbered = re.match(r"((?:Chapter|Appendix) \w+)\. (.+)", chapter_of(page))
        if not numbered:
            continue
        number, chapter = numbered.groups()
        for section in page.find_all(lambda e: e.tag == "div" and "section" in e.classes):
            title = re.sub(r"^[\dA-Z]+(\.\d+)+\.\s+", "", title_of(section).replace("\u00a0", " "))
            text = section_text(section)
            if title and len(text.split()) in WORDS:
                yield number, conversation(title, chapter, text)


def conversation(title, chapter, text):
    request = f"Write the section “{title}” of the chapter “{chapter}” of a handbook on Debian administration."
    request = request.replace("“", '"').replace("”", '"')
    return {"messages": [{"role": "user", "content": request}, {"role": "assistant", "content": text}]}


def main():
    source, out = map(Path, sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    all_samples = list(samples(source))
    for name, is_held_out in (("train", False), ("held-out", True)):
        chosen = [sample for number, sample in all_samples if (number in HELD_OUT) == is_held_out]
        lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in chosen]
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
