"""Where the SQL, the studies and the flows lie: inside an installed wheel, or beside src/ in a checkout."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Literal

from rwe.errors import RweError

_PACKAGE = Path(__file__).resolve().parent


def bundled(name: Literal["sql", "studies", "flows"]) -> Path:
    """The folder of bundled files called `name`."""
    for candidate in (_PACKAGE / "_bundled" / name, _PACKAGE.parents[1] / name):
        if candidate.is_dir():
            return candidate
    raise RweError(f"the bundled folder {name}/ is missing", advice="install rwe again")


def load_flow(name: str) -> ModuleType:
    """Import flows/NAME.py by its path. Only `rwe demo` and `rwe deploy` call this."""
    path = bundled("flows") / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"rwe_flows.{name}", path)
    if spec is None or spec.loader is None:
        raise RweError(f"flow {name} cannot be loaded", where=str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
