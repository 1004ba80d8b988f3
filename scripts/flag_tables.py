#!/usr/bin/env python3
"""Writes the tables of flags in docs/guide.md from what the program prints for --help, or checks them with --check.

A table stands between `<!-- flags: COMMAND | GROUP | GROUP... -->` (no groups: all; * is a wildcard) and
`<!-- end of flags -->`. A command that has a table must have all of its groups in the page. Run it after `make build` whenever a flag was added or changed.
"""
import argparse
import fnmatch
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "guide.md"
COLUMN = 36  # of the text in --help
TABLE = re.compile(r"(<!-- flags: (?P<command>[^|\n]+?)(?P<groups>(?: \| [^|\n]+?)*) -->\n)(?P<table>.*?)(<!-- end of flags -->)", re.S)


def flags_of(program, command):
    """{group: [(flag, default, text)]} of a command, in the order of its --help."""
    text = subprocess.run([program, *command.split(), "--help"], capture_output=True, text=True, check=True).stdout
    groups, rows, group = {}, [], ""
    for line in text.splitlines():
        if re.match(r"[A-Z].*:$", line):
            group = line[:-1]
        elif re.match(r"  -", line):
            fits = line[COLUMN - 1:COLUMN] in ("", " ")  # else the text begins on the next line
            rows.append([group, (line[:COLUMN] if fits else line).strip(), line[COLUMN:].strip() if fits else ""])
        elif line.startswith("   ") and rows:
            rows[-1][2] = f"{rows[-1][2]} {line.strip()}".strip()
    for group, flag, text in rows:
        groups.setdefault(group, []).append((flag, *without_default(text)))
    return groups


def without_default(text):
    """What stands in the last [brackets], and the text before them."""
    if not text.endswith("]"):
        return "", text
    depth = 0
    for at in range(len(text) - 1, -1, -1):
        depth += {"]": 1, "[": -1}.get(text[at], 0)
        if depth == 0:
            return text[at + 1:-1], text[:at].strip()
    return "", text


def cell(text):
    return text.replace("|", "\\|")


def table_of(groups):
    lines = []
    for group, rows in groups.items():
        lines += [f"| {cell(group)} | Default | |", "|---|---|---|"]
        lines += [f"| `{cell(flag)}` | {f'`{cell(default)}`' if default else ''} | {cell(text)} |" for flag, default, text in rows]
        lines.append("")
    return "\n" + "\n".join(lines)


def with_tables(markdown, program):
    """The page with fresh tables, and what is wrong with its markers."""
    known, shown, problems = {}, {}, []

    def fresh(match):
        command = match["command"]
        groups = known.setdefault(command, flags_of(program, command.removeprefix("atom ")))
        patterns = [name.strip() for name in match["groups"].split("|")[1:]] or ["*"]
        wanted = dict.fromkeys(name for pattern in patterns for name in fnmatch.filter(groups, pattern))
        problems.extend(f"{command}: no group {pattern}" for pattern in patterns if not fnmatch.filter(groups, pattern))
        shown.setdefault(command, set()).update(wanted)
        return match[1] + table_of({name: groups[name] for name in wanted}) + match[5]

    fresh_page = TABLE.sub(fresh, markdown)
    for command, groups in known.items():
        problems += [f"{command}: group {name!r} is in no table" for name in groups if name not in shown[command]]
    return fresh_page, problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 when a table is not what --help says")
    parser.add_argument("--program", default=os.environ.get("ATOM_BINARY", str(ROOT / "build" / "bin" / "atom")))
    arguments = parser.parse_args()
    markdown = PAGE.read_text(encoding="utf-8")
    fresh, problems = with_tables(markdown, arguments.program)
    if arguments.check and fresh != markdown:
        problems.append("a table is not what --help says; run scripts/flag_tables.py")
    elif not arguments.check:
        PAGE.write_text(fresh, encoding="utf-8")
    for problem in problems:
        print(f"{PAGE.name}: {problem}", file=sys.stderr)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
