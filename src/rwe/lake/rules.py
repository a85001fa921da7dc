"""The rules of the quarantine, each with its default, and what a workspace makes of them.

`reject`: the resource does not enter. `flag`: it enters without what breaks the rule, and the quarantine says
so. A fixed rule guards what makes a resource readable, a patient's or permitted at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rwe.errors import ConfigError

Action = Literal["reject", "flag"]


@dataclass(frozen=True)
class Rule:
    """`retires`: the server says not to use this version, so versions before it are not used either."""

    default: Action
    meaning: str
    is_fixed: bool = False
    retires: bool = False


def _fixed(meaning: str, *, retires: bool = False) -> Rule:
    return Rule("reject", meaning, is_fixed=True, retires=retires)


RULES: dict[str, Rule] = {
    "not_json": _fixed("The line does not parse as JSON."),
    "wrong_type": _fixed("A field that the mapping relies on has another JSON type than R4 gives it."),
    "resource_type": _fixed("The resource is of another type than its file says."),
    "id_shape": _fixed("The id is missing or has not the shape of one."),
    "repeated_key": _fixed("A key that is read stands twice, and parsers differ on which one counts."),
    "subsetted": _fixed("The tag SUBSETTED: a part of a resource is no version of it."),
    "test_data": _fixed("The label or tag HTEST: about no real patient.", retires=True),
    "security_label": _fixed(
        "A label that the site's policy excludes (`security_labels` of the site).", retires=True
    ),
    "subject_missing": _fixed("It does not say which patient it is about."),
    "subject_not_patient": _fixed("It is about a group, a device or a place."),
    "subject_unresolvable": _fixed("It refers to its patient in a way that cannot be followed."),
    "subject_of_other_server": _fixed("It is about a patient of another server."),
    "implicit_rules": Rule("reject", "It says that rules apply which are not known here.", retires=True),
    "modifier_extension": Rule(
        "reject",
        "It bears an extension that changes its meaning; kept, has_modifier_extension is true.",
        retires=True,
    ),
    "date_shape": Rule("reject", "A date that the mapping relies on is none; kept, the date is left out."),
    "date_without_offset": Rule("flag", "A time of day without an offset: its day is taken as written."),
    "unknown_code": Rule("flag", "A code is not of the value set that R4 requires; it is left out."),
    "code_shape": Rule("flag", "A code has not the shape of one; it is left out."),
    "system_shape": Rule("flag", "A code system is no URI; it is left out."),
    "unit_shape": Rule("flag", "A unit is neither of UCUM nor one short word; it is left out."),
    "text_left_out": Rule("flag", "A text value is no number and not on the site's list; it is left out."),
    "unusable_element": Rule("flag", "A further element has a wrong type or date; it is left out."),
    "fhir_invalid": Rule("flag", "fhir.resources (R4B) refuses it; with validation: strict it is rejected."),
}

#: The rules that a workspace may set.
CHANGEABLE = tuple(name for name, rule in RULES.items() if not rule.is_fixed)


@dataclass(frozen=True)
class Actions:
    """What becomes of a resource, by rule. Made by `actions`."""

    by_rule: Mapping[str, Action]

    def rejects(self, rule: str) -> bool:
        """Whether a resource that breaks the rule stays out."""
        return self.by_rule[rule] == "reject"


def actions(chosen: Mapping[str, Action] | None = None, *, is_strict: bool = False) -> Actions:
    """The defaults, and over them what the workspace chose (`rules` of rwe.yaml).

    Raises ConfigError where it names no rule, or one that is fixed.
    """
    chosen = chosen or {}
    for name in chosen:
        if name not in RULES:
            raise ConfigError(
                "a rule that does not exist is set",
                where="rules of rwe.yaml",
                advice=f"these may be set: {', '.join(CHANGEABLE)}",
            )
        if RULES[name].is_fixed and chosen[name] != RULES[name].default:
            raise ConfigError(
                f"{name} is always {RULES[name].default}",
                where="rules of rwe.yaml",
                advice=f"these may be set: {', '.join(CHANGEABLE)}",
            )
    by_rule: dict[str, Action] = {name: rule.default for name, rule in RULES.items()}
    if is_strict:
        by_rule["fhir_invalid"] = "reject"
    return Actions(by_rule | dict(chosen))
