"""Reads the parts of a resource: dates, codes, units, references. What breaks a rule is left out and told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal
from zoneinfo import ZoneInfo

from rwe.lake import terms
from rwe.lake.dates import DateShapeError, FhirDate, read_fhir_date
from rwe.lake.elements import (
    CodingIn,
    ConceptIn,
    PartIn,
    PeriodIn,
    QuantityIn,
    RatioIn,
    ReferenceIn,
)
from rwe.lake.findings import Flag, RejectedError
from rwe.lake.pseudonyms import Pseudonymiser, reference_target
from rwe.lake.rules import Actions, actions
from rwe.lake.texts import PermittedTexts

Row = dict[str, Any]


@dataclass(frozen=True)
class Mapping:
    """What turning a site's resources into rows depends on."""

    pseudonyms: Pseudonymiser
    zone: ZoneInfo
    birth_date: Literal["day", "month", "year"]
    actions: Actions = field(default_factory=actions)
    texts: PermittedTexts = field(default_factory=lambda: PermittedTexts({}))


class PartReader:
    """Reads the parts of one resource after the other; `flags` are those of the resource at hand."""

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self.flags: list[Flag] = []

    def note(self, rule: str, json_path: str) -> None:
        """Something breaks a rule that a workspace may set. Raises RejectedError if it is set to reject."""
        if self.mapping.actions.rejects(rule):
            raise RejectedError(rule, json_path)
        self.flags.append(Flag(rule, json_path))

    # Dates

    def fhir_date(self, text: str | None, json_path: str, rule: str = "date_shape") -> FhirDate | None:
        """A date, dateTime or instant; None where there is none, or none that can be read."""
        if text is None:
            return None
        try:
            value = read_fhir_date(text, self.mapping.zone)
        except DateShapeError:
            self.note(rule, json_path)
            return None
        if not value.has_offset:
            self.note("date_without_offset", json_path)
        return value

    def date(self, name: str, text: str | None, json_path: str) -> Row:
        """NAME_day and its companions, of a date that the mapping relies on."""
        return date_columns(name, self.fhir_date(text, json_path))

    def further_date(self, name: str, text: str | None, json_path: str) -> Row:
        """NAME_day and its companions, of a date that a resource can do without."""
        return date_columns(name, self.fhir_date(text, json_path, "unusable_element"))

    def span(self, moment: str | None, period: PeriodIn | None, path: str, kind: str = "DateTime") -> Row:
        """start_* and end_* of a choice of moment or period at `path`; a moment starts and ends at once."""
        if moment is not None:
            start = end = self.fhir_date(moment, f"{path}{kind}")
        elif period is not None:
            start = self.fhir_date(period.start, f"{path}Period.start")
            end = self.fhir_date(period.end, f"{path}Period.end")
        else:
            start = end = None
        return date_columns("start", start) | date_columns("end", end)

    def period(self, period: PeriodIn | None, path: str) -> Row:
        """start_* and end_* of a period at `path`."""
        found = period or PeriodIn()
        return self.date("start", found.start, f"{path}.start") | self.date("end", found.end, f"{path}.end")

    # References

    def subject(self, subject: ReferenceIn | None, field: str = "subject") -> Row:
        """patient_id. Raises RejectedError where it is no patient of the site."""
        reference = subject.reference if subject else None
        if not reference:
            raise RejectedError("subject_missing", f"$.{field}.reference")
        patient_id = self.mapping.pseudonyms.of_reference(reference, "Patient")
        if patient_id is None:
            raise RejectedError(self._why_no_patient(reference), f"$.{field}.reference")
        return {"patient_id": patient_id}

    def _why_no_patient(self, reference: str) -> str:
        target = reference_target(reference)
        if target is None:
            return "subject_unresolvable"
        elsewhere = target[0] == "Patient" and self.mapping.pseudonyms.is_elsewhere(reference)
        return "subject_of_other_server" if elsewhere else "subject_not_patient"

    def reference(self, found: ReferenceIn | None, resource_type: str) -> str | None:
        """The pseudonym of a resource of this type that is referred to; None where it cannot be followed."""
        return self.mapping.pseudonyms.of_reference(found.reference if found else None, resource_type)

    # Codes

    def coded(self, code: str | None, known: frozenset[str], json_path: str) -> str | None:
        """A code of a value set that R4 requires; another is left out."""
        if code is None or code in known:
            return code
        self.note("unknown_code", json_path)
        return None

    def coded_concept(self, concept: ConceptIn | None, known: frozenset[str], json_path: str) -> str | None:
        """The first code of a concept that is of the value set: a hospital may add codes of its own."""
        codes = [c.code for c in (concept.coding or ()) if c.code] if concept else []
        found = next((c for c in codes if c in known), None)
        if codes and found is None:
            self.note("unknown_code", f"{json_path}.coding")
        return found

    def codings(self, concept: ConceptIn | None, json_path: str) -> list[CodingIn]:
        """The codings of a concept, without systems and codes that have not the shape of one."""
        kept: list[CodingIn] = []
        misshapen: set[str] = set()
        for c in (concept.coding or ()) if concept else ():
            system, code = c.system, c.code
            if system is not None and not terms.is_system(system):
                system = None
                misshapen.add("system")
            if code is not None and not terms.is_code(code):
                code = None
                misshapen.add("code")
            kept.append(CodingIn(system, c.version, code, c.display))
        for part in sorted(misshapen):
            self.note(f"{part}_shape", f"{json_path}.coding.{part}")
        return kept

    def all_codings(self, concepts: Iterable[ConceptIn] | None, json_path: str) -> list[CodingIn]:
        """The codings of several concepts, in their order."""
        return [c for concept in concepts or () for c in self.codings(concept, json_path)]

    # Quantities

    def units(self, quantity: QuantityIn, json_path: str) -> tuple[str | None, str | None]:
        """The unit as written, where it is one word, and the code of UCUM."""
        unit = quantity.unit if terms.is_unit(quantity.unit) else None
        code = quantity.code if terms.is_ucum(quantity.system, quantity.code) else None
        if (quantity.unit or quantity.code) and not (unit or code):
            self.note("unit_shape", json_path)
        return unit, code

    def quantity(self, name: str, quantity: QuantityIn | None, json_path: str) -> Row:
        """NAME_value and NAME_unit, by UCUM where it says so."""
        found = quantity or QuantityIn()
        unit, code = self.units(found, json_path)
        return {f"{name}_value": found.value, f"{name}_unit": code or unit}

    def ratio_units(self, ratio: RatioIn, json_path: str) -> tuple[str | None, str | None]:
        """The unit of the quotient, as written and in UCUM: `mL/h`, or the numerator's alone."""
        above = self.units(ratio.numerator or QuantityIn(), f"{json_path}.numerator")
        below = self.units(ratio.denominator or QuantityIn(), f"{json_path}.denominator")
        return quotient(above[0], below[0]), quotient(above[1], below[1])

    def refuse_modified(self, part: PartIn | None, json_path: str) -> None:
        """Note a part that bears a modifierExtension."""
        if part is not None and part.modifierExtension:
            self.note("modifier_extension", f"{json_path}.modifierExtension")


def quotient(above: str | None, below: str | None) -> str | None:
    """A unit by another one."""
    return f"{above}/{below}" if above and below else above


def date_columns(name: str, value: FhirDate | None) -> Row:
    """The four columns of a date."""
    return {
        f"{name}_day": value.day if value else None,
        f"{name}_precision": value.precision if value else None,
        f"{name}_first_day": value.first_day if value else None,
        f"{name}_last_day": value.last_day if value else None,
    }
