"""R as an oracle: `survival` and others, where they are installed. Never at run time, not needed in CI."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

_SCRIPT = """
suppressMessages({{{libraries}}}); options(digits = 17)
d <- read.csv("{data}", stringsAsFactors = FALSE)
out <- {{ {code} }}
number <- function(x) {{
  x <- as.numeric(x)
  paste0("[", paste(ifelse(is.finite(x), sprintf("%.17g", x), "null"), collapse = ","), "]")
}}
cat("{{", paste(sprintf('"%s": %s', names(out), sapply(out, number)), collapse = ","), "}}", sep = "")
"""


@cache
def _has(package: str) -> bool:
    if shutil.which("Rscript") is None:
        return False
    command = ["Rscript", "-e", f"quit(status = !requireNamespace('{package}', quietly = TRUE))"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def in_r(code: str, data: pd.DataFrame, folder: Path, *, libraries: tuple[str, ...] = ("survival",)) -> Any:
    """Evaluate R code that sees the table as `d` and ends in a named list of numeric vectors.

    Skips the test without R or one of the libraries.
    """
    for package in libraries:
        if not _has(package):
            pytest.skip(f"needs R with {package}")
    table = folder / "d.csv"
    data.to_csv(table, index=False)
    loaded = "; ".join(f"library({package})" for package in libraries)
    script = folder / "oracle.R"
    script.write_text(_SCRIPT.format(libraries=loaded, data=table, code=code), encoding="utf-8")
    done = subprocess.run(["Rscript", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
