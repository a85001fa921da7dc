"""What is found wrong with a resource: the rule and the place, never a value."""

from __future__ import annotations

from dataclasses import dataclass


class RejectedError(Exception):
    """A resource does not enter the lake. Holds the rule and the JSON path, never a value."""

    def __init__(self, rule: str, json_path: str = "$") -> None:
        super().__init__(rule)
        self.rule, self.json_path = rule, json_path


@dataclass(frozen=True)
class Flag:
    """A resource enters the lake although it breaks a rule."""

    rule: str
    json_path: str
