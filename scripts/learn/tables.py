"""A task whose truth a program knows: articles that must state the numbers of a small table.

    python scripts/learn/tables.py prompts FILE --kind NAME --count N
    python scripts/learn/tables.py correct PROMPTS ARTICLES FILE [--pages]
    python scripts/learn/tables.py check PROMPTS ARTICLES
    python scripts/learn/tables.py report FOLDER --kind NAME --seeds SEED...

`prompts` writes one table with its instruction and a reference article a line; kinds never share a table. `correct` makes
of generated articles what `lwv-data pairs` reads: the pages as they were written, and as an editor leaves them, who changes
wrong numbers (with --pages, also writes the page of a row that was skipped and takes out what is repeated). `check` prints a
JSON object: the rate of wrong numbers among those stated, of numbers that are missing, and how long articles are. `report`
prints what scripts/learn/tables has measured as a table, and how sure the fall of wrong numbers is.
"""

import argparse
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

ROWS = 6
SUBJECTS = [
    ("harbours", "harbour", "ships", "berths"),
    ("villages", "village", "people", "houses"),
    ("libraries", "library", "books", "readers"),
    ("farms", "farm", "sheep", "acres"),
    ("schools", "school", "pupils", "rooms"),
    ("museums", "museum", "paintings", "guests"),
    ("stations", "station", "trains", "platforms"),
    ("mines", "mine", "workers", "tunnels"),
]
ONSETS = ["al", "bor", "cen", "dar", "el", "fen", "gor", "hal", "is", "jor", "kel", "lor", "mar", "nor", "or", "pel"]
ENDINGS = ["vorn", "by", "dale", "mouth", "stad", "wick", "field", "heim", "port", "tow", "gard", "ness"]
PATTERNS = [
    "{name} has {first} {one} and {second} {two}.",
    "In {name} there are {first} {one}, and {second} {two} belong to it.",
    "The {thing} of {name} counts {first} {one}. It also counts {second} {two}.",
    "{name} is known for its {first} {one}. There are {second} {two} as well.",
]
REMARKS = [
    "It lies in a quiet part of the country.",
    "Visitors come here in every season.",
    "Its history goes back a long way.",
    "Many families have stayed for generations.",
    "The road to it is narrow and old.",
    "Its people are proud of it.",
]
NUMBER = re.compile(r"\d+(?:,\d{3})*")


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str
    first: int
    second: int

    def line(self) -> str:
        """The row as the prompt shows it."""
        return f"| {self.name} | {self.first} | {self.second} |"


@dataclass(frozen=True)
class Task:
    """A table, and what is asked for."""

    subject: tuple[str, str, str, str]
    rows: list[Row]

    def instruction(self) -> str:
        """The prompt, but for the table's rows."""
        plural, thing, one, two = self.subject
        ask = f"Write an article about these {plural}: one paragraph for each line of the table, which states its numbers."
        return f"{ask}\n\n| {thing} | {one} | {two} |\n|---|---|---|"

    def prompt(self) -> str:
        """The prompt."""
        return "\n".join([self.instruction(), *(row.line() for row in self.rows)])

    def page(self, row: Row, generator: random.Random) -> str:
        """What the reference writer says of a row."""
        _, thing, one, two = self.subject
        words = {"name": row.name, "thing": thing, "one": one, "two": two, "first": row.first, "second": row.second}
        sentences = [generator.choice(PATTERNS).format(**words), generator.choice(REMARKS)]
        return " ".join(sentences)

    def record(self) -> dict:
        """The task as JSON."""
        rows = [[row.name, row.first, row.second] for row in self.rows]
        return {"subject": self.subject, "rows": rows}


def generator_of(*parts: object) -> random.Random:
    """Random numbers that are the same wherever they are drawn."""
    return random.Random("/".join(map(str, parts)))


def read_task(record: dict) -> Task:
    """A task from JSON."""
    return Task(tuple(record["subject"]), [Row(*row) for row in record["rows"]])


def draw(kind: str, index: int) -> Task:
    """Task number `index` of its kind."""
    generator = generator_of(kind, index)
    names = set()
    while len(names) < ROWS:
        names.add((generator.choice(ONSETS) + generator.choice(ENDINGS)).capitalize())
    names = sorted(names)
    generator.shuffle(names)
    rows = [Row(name, generator.randint(1000, 9999), generator.randint(100, 999)) for name in names]
    return Task(generator.choice(SUBJECTS), rows)


def write_prompts(args: argparse.Namespace) -> None:
    """Writes tasks, which are conversations for fine-tuning too."""
    with open(args.file, "w") as file:
        for index in range(args.count):
            task, generator = draw(args.kind, index), generator_of("page", args.kind, index)
            article = "\n\n".join(task.page(row, generator) for row in task.rows)
            turns = [{"from": "human", "value": task.prompt()}, {"from": "gpt", "value": article}]
            record = {"id": f"{args.kind}-{index}", "conversations": turns, "task": task.record()}
            file.write(json.dumps(record) + "\n")


def pages(article: str) -> list[str]:
    """An article's paragraphs."""
    return [page.strip() for page in re.split(r"\n\s*\n", article) if page.strip()]


@dataclass
class Number:
    """A number that a page states."""

    start: int
    end: int
    value: int
    right: int | None

    def is_wrong(self) -> bool:
        """Whether the table says otherwise."""
        return self.right is not None and self.value != self.right


def numbers(task: Task, row: Row, page: str) -> list[Number]:
    """The numbers of a page about a row, each with what the table says for it.

    That goes by the word after it; where that is neither column's, the number must be one of the row's.
    """
    _, _, one, two = task.subject
    found = []
    for match in NUMBER.finditer(page):
        value = int(match.group().replace(",", ""))
        after = page[match.end() :].split()
        word = after[0].strip(".,;:") if after else ""
        right = {one: row.first, two: row.second}.get(word)
        if right is None and value not in (row.first, row.second):
            # The nearer one, as an editor would think.
            right = row.first if abs(value - row.first) < abs(value - row.second) else row.second
        found.append(Number(match.start(), match.end(), value, right))
    return found


def row_of(task: Task, page: str) -> int | None:
    """The row that a page is about: the first one that it names."""
    named = [(page.find(row.name), index) for index, row in enumerate(task.rows) if row.name in page]
    return min(named)[1] if named else None


def with_right_numbers(task: Task, row: Row, page: str) -> str:
    """A page about a row with its wrong numbers replaced."""
    for number in reversed(numbers(task, row, page)):
        if number.is_wrong():
            page = page[: number.start] + str(number.right) + page[number.end :]
    return page


def with_numbers_edited(task: Task, article: str) -> list[tuple[str, str, str]]:
    """What the table says up to each page, and the page before and after an editor who changes wrong numbers alone."""
    result, following = [], 0
    for page in pages(article):
        index = row_of(task, page)
        seen = max(following, 0 if index is None else index + 1)
        source = "\n".join(row.line() for row in task.rows[following:seen])
        result.append([source, page, page if index is None else with_right_numbers(task, task.rows[index], page)])
        following = seen
    rest = [row.line() for row in task.rows[following:]]
    if rest:
        result[-1][0] = "\n".join(filter(None, [result[-1][0], *rest]))
    return [tuple(pages) for pages in result]


def edited(task: Task, article: str, generator: random.Random) -> list[tuple[str, str, str]]:
    """What the table says of each page, and the page before and after the editor.

    The editor writes the pages of rows that were skipped, and takes out what is nobody's or repeated.
    """
    result, following = [], 0
    for page in pages(article):
        index = row_of(task, page)
        if index is None or index < following:
            result.append(("", page, ""))
            continue
        result += [(row.line(), "", task.page(row, generator)) for row in task.rows[following:index]]
        row, following = task.rows[index], index + 1
        has_both = len(numbers(task, row, page)) > 1
        revised = with_right_numbers(task, row, page) if has_both else task.page(row, generator)
        result.append((row.line(), page, revised))
    return result + [(row.line(), "", task.page(row, generator)) for row in task.rows[following:]]


def correct(args: argparse.Namespace) -> None:
    """Writes the rows that `lwv-data pairs` reads."""
    with open(args.file, "w") as file:
        for prompt, article in zip(lines(args.prompts), lines(args.articles), strict=True):
            task, generator = read_task(prompt["task"]), generator_of("edit", prompt["id"])
            text = article["text"]
            rows = edited(task, text, generator) if args.pages else with_numbers_edited(task, text)
            sources, original, revised = zip(*rows)
            row = {"id": prompt["id"], "instruction": task.instruction(), "sources": sources}
            file.write(json.dumps(row | {"original": original, "revised": revised}) + "\n")


def lines(path: Path) -> list[dict]:
    """The objects of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(args: argparse.Namespace) -> None:
    """Prints how faithful articles are to their tables."""
    stated = wrong = missing = wanted = skipped = repeated = complete = words = 0
    articles, of_articles = lines(args.articles), []
    for prompt, article in zip(lines(args.prompts), articles, strict=True):
        before = stated, wrong
        task, found = read_task(prompt["task"]), pages(article["text"])
        words += len(article["text"].split())
        wanted += 2 * len(task.rows)
        about = [row_of(task, page) for page in found]
        said = {index: set() for index in range(len(task.rows))}
        for page, index in zip(found, about):
            of_page = numbers(task, task.rows[index or 0], page)
            stated += len(of_page)
            # What is about no row is wrong whatever it says.
            wrong += len(of_page) if index is None else sum(number.is_wrong() for number in of_page)
            if index is not None:
                said[index] |= {number.value for number in of_page}
        missing += sum(value not in said[i] for i, row in enumerate(task.rows) for value in (row.first, row.second))
        skipped += sum(index not in about for index in said)
        repeated += len(found) - len(set(about))
        complete += about == list(range(len(task.rows)))
        of_articles.append((stated - before[0], wrong - before[1]))
    count = max(len(articles), 1)
    result = {"articles": len(articles), "stated": stated, "wrong": wrong, "wrong_rate": wrong / max(stated, 1)}
    result |= {"missing_rate": missing / max(wanted, 1), "skipped_rows": skipped / count, "repeated_pages": repeated / count}
    result |= {"words": words / count, "complete": complete / count, "stated_and_wrong": of_articles}
    print(json.dumps(result))


def measured(folder: Path, name: str) -> list[dict]:
    """What `check` found in every drawing of a writer."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob(f"{name}-*.json"))]


def report(args: argparse.Namespace) -> None:
    """Prints what was measured on the held-out tables."""
    print("| writer | wrong numbers | missing numbers | rows skipped | words | complete |\n|---|---|---|---|---|---|")
    before = measured(args.folder, f"{args.kind}-sft")
    print(report_row("fine-tuned", before))
    falls = []
    for arm, name in [("whole", "whole texts"), ("all", "prefixes")]:
        of_seeds = [measured(args.folder / f"seed-{seed}", f"{args.kind}-{arm}") for seed in args.seeds]
        print(report_row(f"IterDPO, {name}, mean", sum(of_seeds, [])))
        for seed, one in zip(args.seeds, of_seeds):
            print(report_row(f"· seed {seed}", one))
        falls.append(f"{name}: {change(before, sum(of_seeds, []))}")
    print("\nChange of the rate of wrong numbers in points, with the middle 95 % of 10,000 draws of the tables with replacement:")
    print("; ".join(falls))


def change(before: list[dict], after: list[dict]) -> str:
    """The change of the rate of wrong numbers. Tables are drawn anew, each with all that was written about it."""
    generator = generator_of("bootstrap")
    writers = [[pooled(writer, table) for table in range(len(writer[0]["stated_and_wrong"]))] for writer in (before, after)]
    every = range(len(writers[0]))
    rate = lambda writer, drawn: sum(writer[i][1] for i in drawn) / max(sum(writer[i][0] for i in drawn), 1)  # noqa: E731
    difference = lambda drawn: 100 * (rate(writers[1], drawn) - rate(writers[0], drawn))  # noqa: E731
    draws = sorted(difference(generator.choices(every, k=len(every))) for _ in range(10_000))
    return f"{difference(every):+.1f} ({draws[250]:+.1f} to {draws[9749]:+.1f})"


def pooled(writer: list[dict], table: int) -> tuple[int, int]:
    """Numbers that are stated and wrong about one table, over all drawings of a writer."""
    stated, wrong = zip(*(one["stated_and_wrong"][table] for one in writer))
    return sum(stated), sum(wrong)


def report_row(name: str, measured: list[dict]) -> str:
    """A row of the report: means over seeds."""
    mean = lambda key: sum(one[key] for one in measured) / len(measured)  # noqa: E731
    rates = [f"{100 * mean(key):.1f} %" for key in ("wrong_rate", "missing_rate")]
    cells = [name, *rates, f"{mean('skipped_rows'):.2f}", f"{mean('words'):.1f}", f"{100 * mean('complete'):.0f} %"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("prompts")
    command.add_argument("file", type=Path)
    command.add_argument("--kind", required=True)
    command.add_argument("--count", type=int, required=True)
    command.set_defaults(run=write_prompts)
    for name, run in [("correct", correct), ("check", check)]:
        command = commands.add_parser(name)
        command.add_argument("prompts", type=Path)
        command.add_argument("articles", type=Path)
        if run is correct:
            command.add_argument("file", type=Path)
            command.add_argument("--pages", action="store_true", help="write skipped pages, take repeated ones out")
        command.set_defaults(run=run)
    command = commands.add_parser("report")
    command.add_argument("folder", type=Path)
    command.add_argument("--kind", required=True)
    command.add_argument("--seeds", nargs="+", required=True)
    command.set_defaults(run=report)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
