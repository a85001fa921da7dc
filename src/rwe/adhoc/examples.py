"""The bundled example queries: `sql/examples/*.sql`, each a question and the SELECT that answers it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rwe.resources import bundled


@dataclass(frozen=True)
class Example:
    """One example. `question` is its leading comment."""

    name: str
    question: str
    sql: str
    path: Path


def examples() -> tuple[Example, ...]:
    """All of them, in the order of their names."""
    folder = bundled("sql") / "examples"
    return tuple(_read(path) for path in sorted(folder.glob("*.sql")))


def find_example(name: str) -> Example | None:
    """The example of this name, with or without `.sql`; None where there is none."""
    return next((e for e in examples() if e.name == name.removesuffix(".sql")), None)


def _read(path: Path) -> Example:
    text = path.read_text(encoding="utf-8")
    lines = []
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").strip())
    return Example(path.stem, " ".join(lines), text, path)
