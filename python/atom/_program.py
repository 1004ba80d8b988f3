"""The native program `atom` that came with this package, for ``python -m atom....``."""
from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from typing import NoReturn


def program_path() -> str:
    """Where the program is: among the scripts of the installation that this package is part of.

    Raises:
        FileNotFoundError: It is not there.
    """
    for path in _candidates():
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise FileNotFoundError("the program `atom` is not beside this package: install it again (pip install .)")


def run_program(name: str, *command: str) -> NoReturn:
    """Becomes `atom COMMAND...` with this process's further arguments. `name` is what process lists show."""
    try:
        path = program_path()
    except FileNotFoundError as error:
        sys.exit(f"atom: {error}")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(path, [name, *command, *sys.argv[1:]])


def _candidates() -> Iterator[str]:
    package = os.path.dirname(os.path.abspath(__file__))
    # lib/python3.N/site-packages/atom, or `pip install --target`, where bin is beside the package.
    for up in ("../../../../bin", "../bin"):
        yield os.path.normpath(os.path.join(package, up, "atom"))
    for scheme in (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user")):
        yield os.path.join(sysconfig.get_path("scripts", scheme), "atom")
