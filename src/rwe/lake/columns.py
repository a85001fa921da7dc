"""One SELECT a type that turns what DuckDB parsed into the lake's columns: the fast way in.

It takes only what is in order. A line that a check doubts is not in its answer, and goes the careful way
(`rows.py`), which says what is wrong with it; so a check may doubt too much, but never too little. What both
take comes out the same (`tests/unit/test_lake_fast.py`).

The JSON types were checked before (`feed.py`): DuckDB casts a number or an object to a text silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rwe.lake import value_sets
from rwe.lake.medication_rows import DAYS_IN
from rwe.lake.observation_rows import VALUE_KINDS
from rwe.lake.parsed import RANGES
from rwe.lake.rows import YEARS_IN
from rwe.lake.schema import CONTENT_HASH, LAKE_TABLES

_CODINGS = "STRUCT(system VARCHAR, version VARCHAR, code VARCHAR, display VARCHAR)[]"
_NO_CODINGS = f"cast([] as {_CODINGS})"


@dataclass(frozen=True)
class Reading:
    """The columns of a type under way, as SQL by name, and the checks that a row must pass."""

    columns: dict[str, str] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)

    def codings(self, name: str, path: str) -> None:
        """The codings of one concept. `feed.py` looked at those that are fields of the resource."""
        if not path.isidentifier():
            self.checks.append(f"rwe_codings_ok({path}.coding)")
        self.columns[name] = f"coalesce({path}.coding, {_NO_CODINGS})"

    def all_codings(self, name: str, path: str, concept: str = "c") -> None:
        """The codings of a list of concepts, or of what holds one (`concept` says where, from `c` on)."""
        flat = f"flatten(list_transform({path}, lambda c: {concept}.coding))"
        if concept != "c":
            self.checks.append(f"({path} is null or rwe_codings_ok({flat}))")
        self.columns[name] = f"coalesce({flat}, {_NO_CODINGS})"

    def coded(self, name: str, path: str, known: frozenset[str]) -> None:
        """A code of a value set."""
        self.checks.append(f"({path} is null or {path} in {_list(known)})")
        self.columns[name] = path

    def coded_concept(self, name: str, path: str, known: frozenset[str]) -> None:
        """The first code of a concept that is of a value set."""
        codes = f"list_transform({path}.coding, lambda c: c.code)"
        found = f"list_filter({codes}, lambda x: x in {_list(known)})[1]"
        given = f"list_filter({codes}, lambda x: x <> '')"
        self.checks.append(f"({path}.coding is null or len({given}) = 0 or {found} is not null)")
        self.columns[name] = found

    def date(self, name: str, text: str) -> None:
        """The four columns of a date."""
        self.checks.append(f"rwe_date_ok({text})")
        self.columns.update(
            {
                f"{name}_day": f"rwe_day({text})",
                f"{name}_precision": f"rwe_precision({text})",
                f"{name}_first_day": f"rwe_first_day({text})",
                f"{name}_last_day": f"rwe_last_day({text})",
            }
        )

    def span(self, path: str) -> None:
        """start_* and end_* of a choice of moment or period."""
        self.date("start", f"coalesce({path}DateTime, {path}Period.start)")
        end = f"case when {path}DateTime is null then {path}Period.end else {path}DateTime end"
        self.date("end", f"({end})")

    def moment(self, name: str, text: str) -> None:
        """A moment in UTC, to the second; null for a date without a time."""
        self.checks.append(f"rwe_date_ok({text})")
        self.columns[name] = f"rwe_second({text})"

    def units(self, path: str) -> tuple[str, str]:
        """The unit as written and the code of UCUM."""
        self.checks.append(f"rwe_unit_ok({path})")
        return f"rwe_unit({path})", f"rwe_ucum({path})"

    def quantity(self, name: str, path: str) -> None:
        """NAME_value and NAME_unit."""
        unit, code = self.units(path)
        self.columns.update({f"{name}_value": f"{path}.value", f"{name}_unit": f"coalesce({code}, {unit})"})

    def part(self, path: str) -> None:
        """A part that must bear no modifierExtension."""
        self.checks.append(f"rwe_plain({path}.modifierExtension)")

    def parts(self, path: str, below: str = "") -> None:
        """A list of such parts."""
        self.checks.append(
            f"({path} is null or len(list_filter({path}, lambda p:"
            f" not rwe_plain(p{below}.modifierExtension))) = 0)"
        )

    def reference(self, name: str, path: str, fed: str) -> None:
        """A reference that `feed.py` made a pseudonym of; one that it could not follow is doubted."""
        self.checks.append(f"({path} is null) = ({fed} is null)")
        self.columns[name] = fed


def _list(known: Iterable[str]) -> str:
    return "(" + ", ".join(f"'{code}'" for code in sorted(known)) + ")"


def _patient(s: Reading, birth_date: str) -> None:
    kept = {"day": "birthDate", "month": "birthDate[1:7]", "year": "birthDate[1:4]"}[birth_date]
    s.columns["is_active"] = "active"
    s.coded("gender", "gender", value_sets.GENDERS)
    s.checks.append("(birthDate is null or (rwe_date_ok(birthDate) and length(birthDate) <= 10))")
    s.date("birth", kept)
    s.columns["deceased_boolean"] = "deceasedBoolean"
    s.date("deceased", "deceasedDateTime")
    s.checks.append("link is null")
    s.columns.update({"replaced_by": "cast([] as VARCHAR[])", "replaces": "cast([] as VARCHAR[])"})


def _medicated(s: Reading, resource_type: str, encounter: str) -> None:
    s.columns["patient_id"] = "rwe_patient"
    s.coded("status", "status", value_sets.STATUSES[resource_type])
    s.checks.extend(
        [
            "contained is null",
            "(medicationReference is null) = (rwe_medication is null)",
        ]
    )
    concept = "medicationCodeableConcept"
    s.columns.update(
        {
            "medication_source": f"case when {concept} is not null then 'concept'"
            " when medicationReference is not null then 'reference' else 'none' end",
            "medication_resource_id": f"case when {concept} is null then rwe_medication end",
            "medication_text": f"{concept}.text",
        }
    )
    s.codings("codings", concept)
    s.reference("encounter_id", encounter, "rwe_encounter")


def _dose(s: Reading, path: str) -> None:
    unit, code = s.units(path)
    s.columns.update(
        {
            "dose_value": f"{path}.value",
            "dose_unit": f"coalesce({code}, {unit})",
            "dose_unit_code": code,
        }
    )


def _dosage(s: Reading, path: str) -> None:
    s.parts(path)
    s.parts(path, ".timing")
    s.codings("route_codings", f"{path}[1].route")
    _dose(s, f"list_filter({path}[1].doseAndRate, lambda d: d.doseQuantity is not null)[1].doseQuantity")
    repeat = f"{path}[1].timing.repeat"
    s.columns.update({"frequency": f"cast({repeat}.frequency as DOUBLE)", "period": f"{repeat}.period"})
    s.coded("period_unit", f"{repeat}.periodUnit", value_sets.PERIOD_UNITS)


def _days(path: str) -> str:
    return _scaled(path, f"lower(coalesce(nullif({path}.code, ''), nullif({path}.unit, ''), 'd'))", DAYS_IN)


def _scaled(path: str, unit: str, factors: dict[str, float]) -> str:
    cases = " ".join(f"when '{name}' then cast('{factor!r}' as DOUBLE)" for name, factor in factors.items())
    return f"case when {path}.comparator is null then {path}.value * (case {unit} {cases} end) end"


def _administration(s: Reading, _: str) -> None:
    _medicated(s, "MedicationAdministration", "context")
    s.part("dosage")
    s.codings("category_codings", "category")
    s.all_codings("reason_codings", "reasonCode")
    s.all_codings("status_reason_codings", "statusReason")
    s.codings("route_codings", "dosage.route")
    s.span("effective")
    _dose(s, "dosage.dose")
    s.checks.append("dosage.rateRatio is null")
    s.quantity("rate", "dosage.rateQuantity")
    s.codings("body_site_codings", "dosage.site")
    s.reference("request_id", "request", "rwe_request")


def _request(s: Reading, _: str) -> None:
    _medicated(s, "MedicationRequest", "encounter")
    s.part("dispenseRequest")
    s.all_codings("category_codings", "category")
    s.all_codings("reason_codings", "reasonCode")
    s.codings("status_reason_codings", "statusReason")
    s.coded("intent", "intent", value_sets.INTENTS)
    s.columns.update(
        {
            "is_do_not_perform": "coalesce(doNotPerform, false)",
            "is_reported": "coalesce(reportedBoolean, false) or reportedReference is not null",
        }
    )
    s.date("authored", "authoredOn")
    _dosage(s, "dosageInstruction")
    s.date("valid_from", "dispenseRequest.validityPeriod.start")
    s.date("valid_to", "dispenseRequest.validityPeriod.end")
    s.columns["refills"] = "cast(dispenseRequest.numberOfRepeatsAllowed as INTEGER)"
    s.quantity("quantity", "dispenseRequest.quantity")
    s.columns["supply_days"] = _days("dispenseRequest.expectedSupplyDuration")


def _dispense(s: Reading, _: str) -> None:
    _medicated(s, "MedicationDispense", "context")
    s.codings("category_codings", "category")
    s.columns["reason_codings"] = _NO_CODINGS
    s.codings("status_reason_codings", "statusReasonCodeableConcept")
    s.date("prepared", "whenPrepared")
    s.date("handed_over", "whenHandedOver")
    _dosage(s, "dosageInstruction")
    s.quantity("quantity", "quantity")
    s.columns["supply_days"] = _days("daysSupply")
    s.reference("request_id", "authorizingPrescription", "rwe_request")


def _statement(s: Reading, _: str) -> None:
    _medicated(s, "MedicationStatement", "context")
    s.codings("category_codings", "category")
    s.all_codings("reason_codings", "reasonCode")
    s.all_codings("status_reason_codings", "statusReason")
    s.span("effective")
    s.date("asserted", "dateAsserted")
    _dosage(s, "dosage")


def _medication(s: Reading, _: str) -> None:
    s.coded("status", "status", value_sets.STATUSES["Medication"])
    s.columns["medication_text"] = "code.text"
    s.codings("codings", "code")
    s.codings("form_codings", "form")
    s.parts("ingredient")
    s.all_codings("ingredient_codings", "ingredient", "c.itemCodeableConcept")


def _value(s: Reading, at: str, text: str | None) -> None:
    """The columns of value[x], whose names begin with `at`. `text` is what a valueString says, if known."""
    kinds = " ".join(f"when {at}value{kind} is not null then '{kind}'" for kind in VALUE_KINDS)
    quantity = f"{at}valueQuantity"
    unit, code = s.units(quantity)
    is_plain = f"({quantity} is null and {at}valueInteger is null)"
    is_known = f"{quantity}.comparator is null or {quantity}.comparator in {_list(value_sets.COMPARATORS)}"
    s.checks.extend([f"({is_known})", f"{at}valueRange is null", f"{at}valueRatio is null"])
    if text is None:
        s.checks.append(f"{at}valueString is null")
    else:
        s.checks.append(f"({at}valueString is null) = ({text} is null)")
    number = (
        f"case when {quantity} is not null then {quantity}.value else cast({at}valueInteger as DOUBLE) end"
    )
    comparator = f"{quantity}.comparator"
    if text is not None:
        number = f"case when {is_plain} then {text}.number else ({number}) end"
        comparator = f"case when {is_plain} then {text}.comparator else {comparator} end"
        unit = f"case when {is_plain} then {text}.unit else {unit} end"
    s.columns.update(
        {
            "value_kind": f"case {kinds} end",
            "value_number": number,
            "value_comparator": comparator,
            "value_unit": unit,
            "value_unit_code": code,
            "value_boolean": f"{at}valueBoolean",
        }
    )
    s.codings("value_codings", f"{at}valueCodeableConcept")
    s.columns["value_text"] = "cast(null as VARCHAR)" if text is None else f"{text}.text"
    for name in ("low", "high", "numerator", "denominator"):
        s.columns[f"value_{name}"] = "cast(null as DOUBLE)"
    s.codings("absent_reason_codings", f"{at}dataAbsentReason")


def _each(s: Reading, name: str, path: str, one: Reading) -> None:
    """A list of structs, made of the parts `x` of a list."""
    fields = ", ".join(f"{key}: {sql}" for key, sql in one.columns.items())
    kind = next(columns[name] for columns in LAKE_TABLES.values() if name in columns)
    made = f"list_transform({path}, lambda x: {{{fields}}})"
    s.columns[name] = f"case when {path} is null then cast([] as {kind}) else cast({made} as {kind}) end"
    doubted = f"list_filter({path}, lambda x: not coalesce({' and '.join(one.checks)}, false))"
    s.checks.append(f"({path} is null or len({doubted}) = 0)")


def _observation(s: Reading, _: str) -> None:
    s.columns["patient_id"] = "rwe_patient"
    s.coded("status", "status", value_sets.STATUSES["Observation"])
    s.codings("codings", "code")
    s.all_codings("category_codings", "category")
    effective = "coalesce(effectiveInstant, effectiveDateTime, effectivePeriod.start)"
    s.date("effective", effective)
    s.moment("effective_at", effective)
    s.checks.append("(effectivePeriod is null or (effectiveInstant is null and effectiveDateTime is null))")
    s.date("effective_end", "effectivePeriod.end")
    s.moment("issued_at", "issued")
    _value(s, "", "rwe_text")
    s.date("value", "coalesce(valueDateTime, valuePeriod.start)")
    s.date("value_end", "valuePeriod.end")
    s.all_codings("interpretation_codings", "interpretation")
    s.codings("body_site_codings", "bodySite")
    s.codings("method_codings", "method")
    s.columns["reference_ranges"] = f"coalesce(rwe_ranges, cast([] as {RANGES}))"
    component = Reading()
    component.part("x")
    component.codings("codings", "x.code")
    _value(component, "x.", None)
    _each(s, "components", "component", component)
    s.reference("encounter_id", "encounter", "rwe_encounter")


def _condition(s: Reading, _: str) -> None:
    s.columns["patient_id"] = "rwe_patient"
    s.coded_concept("clinical_status", "clinicalStatus", value_sets.CLINICAL_STATUSES)
    s.coded_concept("verification_status", "verificationStatus", value_sets.VERIFICATION_STATUSES)
    s.codings("codings", "code")
    s.all_codings("category_codings", "category")
    s.codings("severity_codings", "severity")
    s.parts("stage")
    s.all_codings("stage_codings", "stage", "c.summary")
    s.all_codings("body_site_codings", "bodySite")
    s.date("onset", "coalesce(onsetDateTime, onsetPeriod.start)")
    s.columns["onset_age_years"] = _scaled("onsetAge", "onsetAge.code", YEARS_IN)
    s.date("abatement", "coalesce(abatementDateTime, abatementPeriod.end)")
    s.date("recorded", "recordedDate")
    s.reference("encounter_id", "encounter", "rwe_encounter")


def _procedure(s: Reading, _: str) -> None:
    s.columns["patient_id"] = "rwe_patient"
    s.coded("status", "status", value_sets.STATUSES["Procedure"])
    s.codings("codings", "code")
    s.codings("category_codings", "category")
    s.all_codings("reason_codings", "reasonCode")
    s.all_codings("body_site_codings", "bodySite")
    s.codings("outcome_codings", "outcome")
    s.all_codings("complication_codings", "complication")
    s.span("performed")
    s.reference("encounter_id", "encounter", "rwe_encounter")


def _encounter(s: Reading, _: str) -> None:
    s.columns["patient_id"] = "rwe_patient"
    s.coded("status", "status", value_sets.STATUSES["Encounter"])
    s.coded("class_code", '"class".code', value_sets.ENCOUNTER_CLASSES)
    s.all_codings("type_codings", "type")
    s.all_codings("reason_codings", "reasonCode")
    s.part("hospitalization")
    s.codings("discharge_codings", "hospitalization.dischargeDisposition")
    s.date("start", "period.start")
    s.date("end", "period.end")
    s.reference("part_of_id", "partOf", "rwe_encounter")


_TYPES: dict[str, Callable[[Reading, str], None]] = {
    "Patient": _patient,
    "MedicationAdministration": _administration,
    "MedicationRequest": _request,
    "MedicationDispense": _dispense,
    "MedicationStatement": _statement,
    "Medication": _medication,
    "Observation": _observation,
    "Condition": _condition,
    "Procedure": _procedure,
    "Encounter": _encounter,
}

#: The types that have a fast way; the others are few, and go the careful way.
FAST_TYPES = frozenset(_TYPES)


def reading(resource_type: str, birth_date: str, excluded_labels: frozenset[str]) -> Reading:
    """The columns of a type after the common ones, as SQL, and the checks of a line that is in order."""
    made = Reading()
    _TYPES[resource_type](made, birth_date)
    labels = _list({code.replace("'", "''") for code in excluded_labels | {"SUBSETTED", "HTEST"}})
    made.checks[:0] = [
        "rwe_id is not null",
        f"resourceType = '{resource_type}'",
        "regexp_full_match(id, '[A-Za-z0-9.-]{1,64}')",
        "implicitRules is null",
        "rwe_plain(modifierExtension)",
        f"rwe_unlabelled(meta.tag, {labels})",
        f"rwe_unlabelled(meta.security, {labels})",
        "rwe_moment_ok(meta.lastUpdated)",
    ]
    if "patient_id" in LAKE_TABLES[resource_type]:
        made.checks.append("subject.reference is not null and rwe_patient is not null")
    return made


#: What says where and when a version landed, not what it says.
_PLACE = frozenset({"site", "run", "line", "updated_at", "landed_at", "landed_day", CONTENT_HASH})


def content_hash(resource_type: str) -> str:
    """The hash of a row's own columns as SQL: 64 bits, compared between versions of one resource only.

    It is made of what stands beside it, so it gives nothing away. An undated version has its run's date,
    which is not what it says.
    """
    said = [name for name in LAKE_TABLES[resource_type] if name not in _PLACE]
    dated = "nullif(updated_at, landed_at)"
    return f"lower(lpad(to_hex(hash({', '.join([*said, dated])})), 16, '0')) as {CONTENT_HASH}"
