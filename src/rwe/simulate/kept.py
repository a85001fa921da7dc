"""Results of scenarios kept in a folder, so that a long run that was stopped goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rwe.simulate.definition import Estimator
from rwe.simulate.harness import BOOTSTRAP_REPLICATES, Performance
from rwe.simulate.scenarios import Scenario


@dataclass(frozen=True)
class Kept:
    """One file a scenario in `folder`, valid for the same question alone: seed, replicates, definitions."""

    folder: Path
    seed: int
    replicates: int
    estimators: Sequence[Estimator]

    def read(self, s: Scenario) -> tuple[Performance, ...] | None:
        """What was found before, None where nothing fits."""
        try:
            kept = json.loads(self._path(s).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if kept.get("question") != self._question(s):
            return None
        return tuple(Performance(**row) for row in kept["performances"])

    def write(self, s: Scenario, found: Sequence[Performance]) -> None:
        """Keep what was found; a file is complete or absent."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {"question": self._question(s), "performances": [dataclasses.asdict(p) for p in found]}
        path = self._path(s)
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        draft.replace(path)

    def _path(self, s: Scenario) -> Path:
        return self.folder / f"{s.name}.json"

    def _question(self, s: Scenario) -> str:
        """A hash of all that decides the numbers but the code."""
        asked = [
            (e.name, e.estimand, e.scale, sorted(e.needs), sorted(e.exact_when or ()), e.share, e.largest)
            for e in self.estimators
            if s.asks(e.name)
        ]
        told = {k: sorted(v) if isinstance(v, frozenset) else v for k, v in vars(s).items()}
        words = repr((self.seed, self.replicates, BOOTSTRAP_REPLICATES, sorted(told.items()), asked))
        return hashlib.sha256(words.encode()).hexdigest()
