"""evidence.json keeps its contract."""

from __future__ import annotations

import json

from rwe.evidence.contract import SCHEMA_PATH, evidence_schema


def test_the_published_schema_is_the_one_of_the_models() -> None:
    assert json.loads(SCHEMA_PATH.read_text()) == json.loads(json.dumps(evidence_schema()))
