"""The page of `atom bench compare` in a real browser: curves, percentiles, warnings, nothing from outside."""
import json
import subprocess

from conftest import BINARY
from test_page import shoot

LENGTHS = ("isl1024_osl1024", "isl8192_osl1024")
CONCURRENCIES = (4, 8, 16, 32, 64)


def write_results(folder, side, speed, gpu, flags):
    folder.mkdir()
    for i, lengths in enumerate(LENGTHS):
        for concurrency in CONCURRENCIES:
            tpot = (7 + i * 3 + 0.2 * concurrency) / speed
            numbers = {"output_throughput": 1000 * concurrency / tpot, "total_token_throughput": 2000 * concurrency / tpot,
                       "request_throughput": concurrency / tpot, "completed": 10 * concurrency}
            for name, value in (("ttft", 40 + 5 * concurrency), ("tpot", tpot), ("itl", tpot)):
                numbers |= {f"mean_{name}_ms": value, f"median_{name}_ms": value * 0.98, f"p99_{name}_ms": value * 1.5}
            result = {"backend": "vllm", "model_id": "m", "num_prompts": 10 * concurrency, "request_rate": "inf",
                      "max_concurrency": concurrency, **numbers, "server": {"version": side, "hardware": gpu, "flags": flags},
                      "client": {"program": "atom", "cpu": "x", "command": "atom bench sweep"}}
            (folder / f"tp1_{lengths}_conc{concurrency}.json").write_text(json.dumps(result))


def compare(tmp_path, **second):
    first = {"side": "0.1 <script>alert(1)</script>", "speed": 1.0, "gpu": "H200", "flags": "--level 3"}
    write_results(tmp_path / "a", **first)
    write_results(tmp_path / "b", **{**first, "speed": 1.3, **second})
    page = tmp_path / "page.html"
    subprocess.run([BINARY, "bench", "compare", str(tmp_path / "a"), str(tmp_path / "b"), "--html", str(page)], check=True,
                   capture_output=True)
    return page


def test_curves_tables_and_screenshot(open_page, tmp_path):
    page = open_page(compare(tmp_path).as_uri(), width=1280, height=900)
    assert page.js("document.querySelectorAll('svg').length") == len(LENGTHS)
    labels = page.js("[...document.querySelectorAll('svg')[0].querySelectorAll('text')].map(t => t.textContent)")
    assert {"1,000", "4,000", "5", "20"} <= set(labels)  # round numbers along the axes
    for chart in range(len(LENGTHS)):
        assert page.js(f"document.querySelectorAll('svg')[{chart}].querySelectorAll('polyline').length") == 2
        points = page.js(f"[...document.querySelectorAll('svg')[{chart}].querySelectorAll('polyline')]"
                         ".map(l => l.getAttribute('points').split(' ').map(p => p.split(',').map(Number)))")
        view = [float(n) for n in page.js(f"document.querySelectorAll('svg')[{chart}].getAttribute('viewBox')").split()]
        for line in points:
            assert len(line) == len(CONCURRENCIES) and all(0 <= x <= view[2] and 0 <= y <= view[3] for x, y in line)
        # B is faster: at each concurrency higher (a smaller y) and further to the left.
        assert all(b[0] < a[0] and b[1] < a[1] for a, b in zip(*points))
    rows = page.js("[...document.querySelectorAll('#latency tbody tr')].map(r => [...r.cells].map(c => c.textContent))")
    row = next(r for r in rows if r[0] == "tp1_isl1024_osl1024_conc4" and r[1] == "p99_tpot_ms")
    assert row[2:] == ["11.7", "9", "76.9%"]
    assert {r[1] for r in rows} >= {"median_ttft_ms", "p99_ttft_ms", "median_tpot_ms", "p99_tpot_ms"}
    assert page.js("document.querySelector('#warnings').textContent") == ""
    assert "<script>alert(1)</script>" in page.js("document.querySelector('#facts').textContent")
    assert page.js("performance.getEntriesByType('resource').length") == 0
    shoot(page, "compare.png")


def test_sides_that_are_not_alike_are_said_to_be(open_page, tmp_path):
    page = open_page(compare(tmp_path, gpu="H100", flags="--level 0").as_uri(), width=400, height=800, mobile=True, dark=True)
    warnings = page.js("document.querySelector('#warnings').innerText")
    assert "H200" in warnings and "H100" in warnings and "--level 0" in warnings
    # Nothing is wider than the screen: names wrap, tables scroll by themselves.
    assert page.js("[...document.querySelectorAll('body > :not(.scroll, script)')].filter(e => e.scrollWidth > 400).length") == 0
    assert page.js("[...document.querySelectorAll('body > .scroll')].every(e => e.getBoundingClientRect().right <= 400)")
    shoot(page, "compare-phone.png")
