"""Documentation as data: the fenced blocks of a Markdown page, the commands of a shell block, and whether an output is
the one that a page shows.

A fence says how its block is treated: ```bash or ```python, then tags (tests/guide/README.md lists them). A ```text
block right after one that runs is its output: numbers stand for any number, `...` for anything, blanks for any
blanks, and a line may be broken anywhere.
"""
import dataclasses
import re
import textwrap


@dataclasses.dataclass(frozen=True)
class Block:
    page: str
    line: int  # of the fence
    language: str
    tags: tuple
    text: str
    output: str | None = None  # what the page shows under it

    def __str__(self):
        return "-".join([f"{self.page}:{self.line}", self.language, *self.tags])


FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<text>.*?)^(?P=indent)``` *$", re.M | re.S)


def blocks(path):
    """All fenced blocks of a page in order; a ```text block directly under a bash or python one belongs to it."""
    markdown = path.read_text(encoding="utf-8")
    found, end = [], 0
    for match in FENCE.finditer(markdown):
        language, *tags = match["info"].split() or [""]
        text = textwrap.dedent(match["text"])
        adjacent = not markdown[end:match.start()].strip()
        if language == "text" and adjacent and found and found[-1].language in ("bash", "python"):
            found[-1] = dataclasses.replace(found[-1], output=text)
        else:
            line = markdown.count("\n", 0, match.start()) + 1
            found.append(Block(path.name, line, language, tuple(tags), text))
        end = match.end()
    return found


def commands(text):
    """The commands of a shell block, one line each: continued lines joined, comments left out."""
    text = re.sub(r"\s*\\\n\s*", " ", text)
    lines, quote = [""], ""
    for at, c in enumerate(text):
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c == "#" and (at == 0 or text[at - 1] in " \n"):
            quote = "\n"  # a comment ends with its line
            continue
        if c == "\n" and not quote or c == quote == "\n":
            lines.append("")
        elif quote != "\n":
            lines[-1] += c
        if c == "\n":
            quote = "" if quote == "\n" else quote
    return [line.strip() for line in lines if line.strip()]


NUMBER = r"-?\d[\d,]*(?:\.\d+)?"


def shows(expected, output):
    """Whether `output` is what a page shows as `expected`."""
    pattern = ""
    for token in re.findall(rf"\.\.\.|{NUMBER}|\s+|.", expected.strip()):
        if token == "...":
            pattern += ".*?"
        elif re.fullmatch(NUMBER, token):
            pattern += NUMBER
        elif token.isspace():
            pattern += r"\s*" if "\n" in token else r"\s+"
        else:
            pattern += re.escape(token)
    return re.fullmatch(pattern, output.strip(), re.S) is not None
