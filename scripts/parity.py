#!/usr/bin/env python3
"""Compares every model with what transformers computed, and writes the matrix into docs/models.md.

From inside, atom_golden_test: logits and greedy tokens of the committed miniatures, always, and of the parity pack where
it is. From outside, the pack's check.py: echoed logprobs, greedy tokens and batches of `atom serve`, model by model. On the
CPU, and on a GPU where the backend lies beside the program and a device answers.

Usage: parity.py [--only REGEX] [--bin build] [--no-write]. ATOM_SHARED_DIR (default ../shared) holds parity/. Exits with 1
when anything differs. Tables are written between the markers of docs/models.md; the GPU's only where there was one.
"""
import argparse
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "models.md"
SETS = {"committed": "The committed miniatures (`tests/golden`, in CI)", "parity": "The parity pack"}


def run_golden(binary, shared):
    """{set: {model: row}} of atom_golden_test, whether it passed, and whether it found a GPU."""
    log = subprocess.run([binary, "--gtest_filter=Files/GoldenModels.*"], cwd=ROOT, capture_output=True, text=True,
                         env={**os.environ, "ATOM_SHARED_DIR": str(shared)}, check=False)
    sets = {name: {} for name in SETS}
    rows, has_gpu = {}, False
    for line in log.stdout.splitlines():
        words = line.split()
        if started := re.match(r"\[ RUN .*GoldenModels\.(\w+)/(\w+)", line):
            rows, greedy = sets[started[2]], started[1].startswith("Greedy")
        elif words[:1] == ["model"]:
            has_gpu = has_gpu or "cuda" in words
        elif len(words) > 2 and re.match(r"[\d.]+e[-+]\d+$", words[1]) and not greedy:
            rows[words[0]] = {"tolerance": words[1], "f32": words[3], "default": words[5]}
        elif len(words) > 2 and re.match(r"\d+/\d+$", words[1]) and greedy:
            rows[words[0]].update(greedy=", ".join(words[1:3]), cuda=words[3] if len(words) > 3 else "")
        elif "Failure" in line or line.startswith("[  FAILED  ]"):
            print(line, file=sys.stderr)
    if log.returncode != 0:
        print(log.stdout[-3000:], log.stderr[-3000:], file=sys.stderr)
    return sets, log.returncode == 0, has_gpu


def load_check(pack_dir):
    spec = importlib.util.spec_from_file_location("check", pack_dir / "check.py")
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    return check


def check_served(check, pack, name, atom, device, logs):
    """(passed, all) checks of a served model; a device that refuses a model in words gives its words."""
    reference = pack / "reference" / name
    model = pack / "models" / name
    file = check.json.loads((reference / "reference.json").read_text()).get("file")
    command = f"{atom} serve --model {{model}} --server-port {{port}} --host 127.0.0.1 --device {device} --no-access-log"
    try:
        with check.Server(command, str(model / file if file else model), str(logs / f"{name}-{device}.log")) as base:
            _, results = check.check_model(base, None, str(reference))
    except RuntimeError as error:
        if device != "cpu" and re.search("no GPU kernels|its kernels take", str(error)):
            return None
        print(f"{name}: {error}", file=sys.stderr)
        return 0, 1
    for what, error in results:
        if error:
            print(f"{what}: {error}", file=sys.stderr)
    return sum(error is None for _, error in results), len(results)


def shown(counts):
    return "refused" if counts is None else f"{counts[0]}/{counts[1]}"


def write_between(text, name, body):
    begin, end = f"<!-- {name}: written by make parity -->\n", f"<!-- end of {name} -->\n"
    head, rest = text.split(begin, 1)
    return head + begin + body + end + rest.split(end, 1)[1]


def cpu_tables(sets, served):
    out = f"CPU, {time.strftime('%Y-%m-%d')}.\n"
    for name in ("parity", "committed"):
        rows = sets[name]
        if not rows:
            continue
        outside = name == "parity"
        out += f"\n### {SETS[name]}: {len(rows)} models\n\n| Model | Tolerance | f32 | default | Greedy |"
        out += " Served |\n|---|---|---|---|---|---|\n" if outside else "\n|---|---|---|---|---|\n"
        for model, row in sorted(rows.items()):
            cells = [model, row["tolerance"], row["f32"], row["default"], row.get("greedy", "-")]
            out += f"| {' | '.join(cells + ([shown(served[model])] if outside else []))} |\n"
    return out


def gpu_table(sets, served):
    out = f"{time.strftime('%Y-%m-%d')}.\n\n| Model | Greedy | Served |\n|---|---|---|\n"
    for name in ("parity", "committed"):
        for model, row in sorted(sets[name].items()):
            cell = shown(served[model]) if name == "parity" else "-"
            out += f"| {model} | {row.get('cuda') or '-'} | {cell} |\n"
    return out


def place_backend(folders):
    """The GPU backend is looked for beside each program; `cmake --preset cuda` leaves it in a folder of its own."""
    built = ROOT / "build" / "cuda" / "bin" / "libatom_cuda.so"
    for folder in folders:
        if built.is_file() and not (folder / built.name).exists():
            (folder / built.name).symlink_to(built)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="models of the pack whose names match; nothing is written")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build", help="holds bin/atom and tests/atom_golden_test")
    parser.add_argument("--no-write", action="store_true", help="docs/models.md stays as it is")
    args = parser.parse_args()
    shared = pathlib.Path(os.environ.get("ATOM_SHARED_DIR", ROOT.parent / "shared")).resolve()
    golden, atom = (args.bin.resolve() / path for path in ("tests/atom_golden_test", "bin/atom"))
    place_backend([golden.parent, atom.parent])
    sets, passed, has_gpu = run_golden(str(golden), shared)
    served = {"cpu": {}, "cuda": {}}
    if (shared / "parity" / "check.py").is_file():
        check = load_check(shared / "parity")
        with tempfile.TemporaryDirectory() as work:
            pack = pathlib.Path(work)
            subprocess.run(["tar", "-C", work, "-xf", str(shared / "parity" / "parity.tar.xz")], check=True)
            for name in sorted(os.listdir(pack / "models")):
                if not re.search(args.only, name):
                    continue
                for device in ["cpu"] + ["cuda"] * has_gpu:
                    counts = check_served(check, pack, name, atom, device, pack)
                    served[device][name] = counts
                    passed = passed and (counts is None or counts[0] == counts[1])
                    print(f"{name:30} {device:5} {shown(counts)}", flush=True)
    else:
        print(f"parity: {shared}/parity is not there: only the committed miniatures were compared")
    if args.only:
        return 0 if passed else 1
    text = write_between(DOCS.read_text(), "parity on a CPU", cpu_tables(sets, served["cpu"]))
    if has_gpu:
        text = write_between(text, "parity on a GPU", gpu_table(sets, served["cuda"]))
    print(text[text.index("## Against transformers"):])
    if passed and sets["parity"] and not args.no_write:
        DOCS.write_text(text)
    print("parity: all within tolerance" if passed else "parity: FAILED; docs/models.md was not changed")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
