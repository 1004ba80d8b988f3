"""The demo model of the client suites: its name in the API and its file. ATOM_DEMO_MODEL names the file; without it
the one that scripts/fetch_demo_model.sh keeps is taken."""
import os
import pathlib

import pytest

NAME = "SmolLM2-135M-Instruct"


def demo_model():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    given = os.environ.get("ATOM_DEMO_MODEL") or str(cache / "atom" / "models" / f"{NAME}.Q4_1.gguf")
    if not os.path.exists(given):
        pytest.skip("no demo model: run scripts/fetch_demo_model.sh, or set ATOM_DEMO_MODEL")
    return given


def built_without_grammars(message):
    """Whether a refusal of a schema is that of a build without the grammar library. Where its source package lies in the
    tree (scripts/fetch_xgrammar.sh), the same words are a fault."""
    package = pathlib.Path(__file__).resolve().parents[2] / "third_party" / "xgrammar-0.2.8"
    return "not in this build" in message and not package.exists()
