"""A wheel goes into a fresh environment and out of it again without a trace."""
import glob
import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

WHEELS = pathlib.Path(__file__).resolve().parents[2] / "build" / "dist"


@pytest.fixture(scope="module")
def wheel():
    found = sorted(glob.glob(str(WHEELS / "atom-*.whl")), key=os.path.getmtime)
    assert found, "no wheel: run scripts/python_package.sh"
    return found[-1]


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def test_install_and_uninstall(wheel, tmp_path):
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    before = files_below(environment)
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "--quiet",
           "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--no-compile", wheel], check=True)
    program = environment / "bin" / "atom"
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    code = "import atom, atom._program as p; print('atom', atom.__version__); print(p.program_path())"
    told = subprocess.run([environment / "bin" / "python", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert told.stdout == version + str(program) + "\n"
    subprocess.run([*pip, "uninstall", "--yes", "atom"], check=True)
    assert files_below(environment) == before


def test_the_wheel_is_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"atom"} | {top for top in tops if top.endswith((".dist-info", ".data"))}
    assert not [name for name in names if name.endswith((".cpp", ".h", ".a", ".pyc"))]
    tag = pathlib.Path(wheel).stem.split("-")[2:4]
    assert tag == (["cp312", "abi3"] if sys.version_info >= (3, 12) else [f"cp3{sys.version_info[1]}"] * 2)
