"""atom profile and atom trace summary as a user types them."""
import gzip
import json
import pathlib

MODEL = str(pathlib.Path(__file__).resolve().parents[1] / "golden" / "models" / "llama-gqa-bf16")
WORK = ["--model", MODEL, "--input-length", "24", "--output-length", "5", "--bs", "3"]


def test_profile_writes_a_trace_and_says_what_is_in_it(atom, tmp_path):
    result = atom("profile", *WORK, "--torch-profiler-dir", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "decode" in result.stdout and "atom::linear" in result.stdout and "15 tokens in" in result.stderr
    (trace,) = (tmp_path / "rank_0").iterdir()
    data = json.loads(gzip.decompress(trace.read_bytes()))
    events = data["traceEvents"]
    assert [e["name"] for e in events if e.get("cat") == "user_annotation"] == \
        ["prefill[bs=3 tok=72 ctx=24]"] + ["decode[bs=3 tok=3 d=0 spec=0]"] * 4
    assert not any("Input Dims" in e.get("args", {}) for e in events)

    summary = atom("trace", "summary", str(tmp_path), "--top", "2")
    assert summary.returncode == 0 and str(trace) in summary.stdout
    assert summary.stdout.count("atom::") == 2


def test_details_when_asked_for(atom, tmp_path):
    env = {"ATOM_PROFILER_MORE": "1", "ATOM_TORCH_PROFILER_DIR": str(tmp_path)}
    result = atom("profile", *WORK, "--random-input", env=env)
    assert result.returncode == 0, result.stderr
    (trace,) = (tmp_path / "rank_0").iterdir()
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    linear = next(e for e in events if e["name"] == "atom::linear")
    assert linear["args"]["Input Dims"][0][0] == 72 and len(linear["args"]["Input type"]) == 3
    assert any(e["name"] == "[memory]" and e["args"]["Total Allocated"] > 0 for e in events)


def test_the_default_folder_is_below_the_current_one(atom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert atom("profile", *WORK).returncode == 0
    assert len(list((tmp_path / "profiler_traces" / "rank_0").iterdir())) == 1


def test_wrong_use_is_refused_in_one_line(atom, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.json.gz").write_bytes(gzip.compress(b'{"traceEvents":[' + b'{"a":1},' * 9999)[:-40])
    cases = [
        (["profile", *WORK, "--torch-profiler-dir", str(tmp_path / "file")], 1, "cannot be written here"),
        (["profile", "--model", MODEL, "--bs", "0"], 2, "--bs"),
        (["profile", "--model", MODEL, "--input-length", "99999"], 1, "maximum context length"),
        (["trace"], 2, "allowed: summary"),
        (["trace", "summary"], 2, "which DIR or FILE"),
        (["trace", "summary", str(tmp_path / "none")], 1, "no such file or folder"),
        (["trace", "summary", str(tmp_path / "empty")], 1, "no traces"),
        (["trace", "summary", str(tmp_path / "file")], 1, "not a trace"),
        (["trace", "summary", str(tmp_path / "half.json.gz")], 1, "half.json.gz"),
    ]
    for arguments, status, words in cases:
        result = atom(*arguments)
        assert result.returncode == status and words in result.stderr, (arguments, result.stderr)
        assert result.stderr.startswith("atom: ") and result.stderr.count("\n") == 1
