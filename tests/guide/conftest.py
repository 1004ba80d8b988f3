"""Terminals in temporary folders that look like a clone of this repository, and a hub cache of tiny models."""
import os
import pathlib
import shutil
import signal

import pytest

from hub_cache import HUB, make_hub
from shell import ROOT, Shell


@pytest.fixture(scope="session")
def demo_model():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    default = cache / "atom" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path = pathlib.Path(os.environ.get("ATOM_DEMO_MODEL", str(default)))
    if not path.is_file():
        pytest.fail("the demo model is not there: run scripts/fetch_demo_model.sh")
    return path


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    return make_hub(tmp_path_factory.mktemp("hub"), HUB)


@pytest.fixture(scope="module")
def make_shell(tmp_path_factory, demo_model):
    """make_shell(hub) -> a Shell in a folder with this repository's content; its servers end with the module."""
    shells = []

    def make(hub, **environment):
        folder = tmp_path_factory.mktemp("page")
        for entry in ROOT.iterdir():
            if not entry.name.startswith("."):
                os.symlink(entry, folder / entry.name)
        shell = Shell(folder, {
            "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1", "ATOM_LOG_DIR": str(folder), "CUDA_VISIBLE_DEVICES": "",
            **environment})
        shells.append(shell)
        return shell

    yield make
    for shell in shells:
        for pidfile in shell.folder.glob("atom_server_*.pid"):  # of start_atom_server.sh
            try:
                os.kill(int(pidfile.read_text()), signal.SIGTERM)
            except ProcessLookupError:
                pass
        shell.stop_server()
        shutil.rmtree(shell.folder)
