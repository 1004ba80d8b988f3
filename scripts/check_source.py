"""Source checks: size budgets, layering and forbidden constructs, over the files git knows.

Budgets: 500 lines a file, 60 a function (200 in kernels/). What breaks a rule is printed as FILE:LINE: what and
fails; what is over its budget by less than a third is printed as a note, to be mended with the next change there.
To add a rule: one row in RULES, or one function in CHECKS.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILE_LINES = 500
FUNCTION_LINES = 60
KERNEL_LINES = 200
TOLERANCE = 4 / 3

# Rooms from the top down: a room may include its own and those to its right only.
UPPER_ROOMS = {
    "atom/core": ["entrypoints", "model_engine", "models", "model_ops", "model_loader", "tokenizer"],
    "atom/tokenizer": ["entrypoints", "model_engine", "models", "model_ops", "model_loader"],
    "atom/benchmark": ["entrypoints", "model_engine", "models", "model_ops", "structured_output"],
    "atom/structured_output": ["entrypoints", "model_engine", "models", "model_ops", "model_loader"],
    "atom/chat_template": ["entrypoints", "model_engine", "models", "model_ops", "model_loader"],
    "atom/model_ops": ["entrypoints", "model_engine", "models"],
    "atom/model_loader": ["entrypoints", "model_engine", "models"],
    "atom/models": ["entrypoints", "model_engine"],
    "atom/model_engine": ["entrypoints"],
}

# (files, forbidden pattern, exceptions, what to say)
RULES = [
    (r"\.(cpp|h)$", r"std::regex\b|\bsystem\(|\bpopen\(", r"_test\.cpp$", "std::regex, system() and popen() stay out"),
    (r"\.(cpp|h)$", r"\bgetenv\(", r"^atom/config\.cpp$|_test\.cpp$|test_|^benchmarks/kernel_trace", "environment is read in config.cpp"),
    (r"^atom/.*\.(cpp|h)$", r"#\s*if.*(__CUDA|__HIP|USE_ROCM|__x86_64__|__aarch64__|__AVX|__SSE|__ARM)", r"model_ops/gpu/",
     "vendor or architecture #if above the kernels"),
    (r"^atom/.*\.(cpp|h)$", r"system_clock|\btime\(nullptr\)", r"_test\.cpp$|chat_template/chat_template\.cpp$|benchmark/serving_benchmark\.cpp$|http/exchange\.cpp$|core/(log|trace)\.cpp$|"
     r"openai/(api_server|generation|metrics_routes)\.cpp$", "the wall clock jumps; it is for dates only, all else is steady_clock"),
    (r"\.h$", r"^using namespace\b", r"^$", "using namespace in a header"),
    (r"^kernels/.*\.(cpp|h)$", r'#include "atom/', r"_test\.cpp$", "kernels know nothing of atom/"),
    (r"\.(cpp|h|py|sh)$", r"\bTODO\b|\bFIXME\b|\bXXX\b", r"check_source\.py$", "unfinished"),
]


def tracked_files():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = [name for name in listing.stdout.decode().split("\0") if name]
    return [name for name in names if (ROOT / name).is_file()]


def over_budget(what, size, budget):
    return f"{'note: ' if size <= budget * TOLERANCE else ''}{what}, budget {budget}"


def check_file_length(name, lines):
    if name.endswith((".cpp", ".h", ".py", ".cu")) and len(lines) > FILE_LINES:
        yield 1, over_budget(f"{len(lines)} lines", len(lines), FILE_LINES)


def check_header_comment(name, lines):
    if name.endswith(".h") and lines and not lines[0].startswith("//"):
        yield 1, "no opening comment: what it is, what it is not, how to extend it"


def check_pragma_once(name, lines):
    # NAME_impl.h is compiled once per instruction set by including it several times.
    if name.endswith(".h") and not name.endswith("_impl.h") and "#pragma once" not in lines:
        yield 1, "no #pragma once"


FUNCTION_START = re.compile(r"^(  )?(?!namespace|class|struct|enum|union|extern|using|else|#|//|}|\s)\S.*\(")
LITERAL = re.compile(r"\"(\\.|[^\"\\])*\"|'(\\.|[^'\\])'|//.*")


def functions(lines):
    """Yields (first line, last line) of what looks like a function body at namespace or class level."""
    start, depth, opened = None, 0, False
    for number, line in enumerate(lines, 1):
        code = LITERAL.sub("", line)
        if start is None:
            if not FUNCTION_START.match(code):
                continue
            start, depth, opened = number, 0, False
        depth += code.count("{") - code.count("}")
        opened = opened or "{" in code
        if not opened and code.rstrip().endswith(";"):
            start = None  # a declaration
        elif opened and depth <= 0 and code.rstrip().endswith(("}", "};", ");")):
            yield start, number
            start = None


def check_function_length(name, lines):
    if not name.endswith((".cpp", ".h")):
        return
    budget = KERNEL_LINES if name.startswith("kernels/") else FUNCTION_LINES
    for first, last in functions(lines):
        if last - first + 1 > budget:
            yield first, over_budget(f"function of {last - first + 1} lines", last - first + 1, budget)


def check_layering(name, lines):
    for room, above in UPPER_ROOMS.items():
        if not name.startswith(room + "/"):
            continue
        pattern = re.compile(r'#include "atom/(' + "|".join(above) + ")/")
        for number, line in enumerate(lines, 1):
            if pattern.match(line):
                yield number, "includes a room above its own"


def check_rules(name, lines):
    for files, forbidden, exceptions, what in RULES:
        if not re.search(files, name) or re.search(exceptions, name):
            continue
        for number, line in enumerate(lines, 1):
            if re.search(forbidden, line):
                yield number, what


CHECKS = [check_file_length, check_header_comment, check_pragma_once, check_function_length, check_layering, check_rules]


def main():
    problems = 0
    notes = 0
    names = [n for n in tracked_files() if n.endswith((".cpp", ".h", ".cu", ".cuh", ".py", ".sh"))]
    for name in names:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        for check in CHECKS:
            for number, what in check(name, lines):
                print(f"{name}:{number}: {what}")
                notes += what.startswith("note: ")
                problems += not what.startswith("note: ")
    print(f"source checks: {len(names)} files, {problems} problems, {notes} notes")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
