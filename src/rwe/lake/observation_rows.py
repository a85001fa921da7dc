"""The row of an observation: its value in every form R4 gives it, components and reference ranges."""

from __future__ import annotations

from rwe.lake.dates import FhirDate
from rwe.lake.elements import (
    ComponentIn,
    ObservationIn,
    PeriodIn,
    QuantityIn,
    RangeIn,
    RatioIn,
    ReferenceRangeIn,
    ValueIn,
)
from rwe.lake.reader import PartReader, Row, date_columns
from rwe.lake.texts import TextValue
from rwe.lake.value_sets import COMPARATORS, STATUSES

#: The choices of value[x], the one that counts first where a resource has several against the standard.
VALUE_KINDS = (
    "Quantity",
    "CodeableConcept",
    "String",
    "Boolean",
    "Integer",
    "Range",
    "Ratio",
    "SampledData",
    "Time",
    "DateTime",
    "Period",
)


def observation_row(reader: PartReader, r: ObservationIn) -> Row:
    """The columns of an observation after the common ones. Raises RejectedError."""
    path, text, end = _effective(reader, r)
    effective = reader.fhir_date(text, path)
    issued = reader.fhir_date(r.issued, "$.issued", "unusable_element")
    period = r.valuePeriod or PeriodIn()
    value_start = r.valueDateTime if r.valueDateTime is not None else period.start
    value_path = "$.valueDateTime" if r.valueDateTime is not None else "$.valuePeriod.start"
    return {
        **reader.subject(r.subject),
        "status": reader.coded(r.status, STATUSES["Observation"], "$.status"),
        "codings": reader.codings(r.code, "$.code"),
        "category_codings": reader.all_codings(r.category, "$.category"),
        **date_columns("effective", effective),
        "effective_at": effective.at.replace(tzinfo=None) if effective and effective.at else None,
        **date_columns("effective_end", end),
        "issued_at": issued.at.replace(tzinfo=None) if issued and issued.at else None,
        **_value(reader, r, "$"),
        **reader.further_date("value", value_start, value_path),
        **reader.further_date("value_end", period.end, "$.valuePeriod.end"),
        "interpretation_codings": reader.all_codings(r.interpretation, "$.interpretation"),
        "body_site_codings": reader.codings(r.bodySite, "$.bodySite"),
        "method_codings": reader.codings(r.method, "$.method"),
        "reference_ranges": reference_ranges(reader, r.referenceRange or []),
        "components": [_component(reader, x, f"$.component[{i}]") for i, x in enumerate(r.component or ())],
        "encounter_id": reader.reference(r.encounter, "Encounter"),
    }


def _effective(reader: PartReader, r: ObservationIn) -> tuple[str, str | None, FhirDate | None]:
    """Where it is said when it was observed, what is said, and the end of a period."""
    if r.effectiveInstant is not None:
        return "$.effectiveInstant", r.effectiveInstant, None
    if r.effectiveDateTime is not None:
        return "$.effectiveDateTime", r.effectiveDateTime, None
    period = r.effectivePeriod or PeriodIn()
    return "$.effectivePeriod.start", period.start, reader.fhir_date(period.end, "$.effectivePeriod.end")


def _component(reader: PartReader, part: ComponentIn, path: str) -> Row:
    reader.refuse_modified(part, path)
    return {"codings": reader.codings(part.code, f"{path}.code"), **_value(reader, part, path)}


def reference_ranges(reader: PartReader, parts: list[ReferenceRangeIn]) -> list[Row]:
    """The reference ranges of an observation."""
    return [_reference_range(reader, part, f"$.referenceRange[{i}]") for i, part in enumerate(parts)]


def _reference_range(reader: PartReader, part: ReferenceRangeIn, path: str) -> Row:
    reader.refuse_modified(part, path)
    low, high = part.low or QuantityIn(), part.high or QuantityIn()
    unit, unit_code = _range_units(reader, RangeIn(part.low, part.high), path)
    return {
        "low": low.value,
        "high": high.value,
        "unit": unit,
        "unit_code": unit_code,
        "type_codings": reader.codings(part.type, f"{path}.type"),
    }


def _value(reader: PartReader, r: ValueIn | ObservationIn, path: str) -> Row:
    """The columns of value[x]. A bound of which it is not known which way it goes is no number."""
    kind = next((k for k in VALUE_KINDS if getattr(r, f"value{k}") is not None), None)
    number, comparator, unit, unit_code = _number(reader, r, path)
    text = _text(reader, r, path)
    if r.valueQuantity is None and r.valueInteger is None and text.number is not None:
        number, comparator, unit = text.number, text.comparator, text.unit
    found, ratio = r.valueRange or RangeIn(), r.valueRatio or RatioIn()
    if r.valueRange is not None:
        unit, unit_code = _range_units(reader, found, f"{path}.valueRange")
    elif r.valueRatio is not None:
        unit, unit_code = reader.ratio_units(ratio, f"{path}.valueRatio")
    return {
        "value_kind": kind,
        "value_number": number,
        "value_comparator": comparator,
        "value_unit": unit,
        "value_unit_code": unit_code,
        "value_boolean": r.valueBoolean,
        "value_codings": reader.codings(r.valueCodeableConcept, f"{path}.valueCodeableConcept"),
        "value_text": text.text,
        "value_low": found.low.value if found.low else None,
        "value_high": found.high.value if found.high else None,
        "value_numerator": _exactly(ratio.numerator),
        "value_denominator": _exactly(ratio.denominator),
        "absent_reason_codings": reader.codings(r.dataAbsentReason, f"{path}.dataAbsentReason"),
    }


def _number(
    reader: PartReader, r: ValueIn | ObservationIn, path: str
) -> tuple[float | None, str | None, str | None, str | None]:
    """Number, comparator, unit and code of UCUM of a quantity or an integer."""
    if r.valueQuantity is None:
        return (None if r.valueInteger is None else float(r.valueInteger)), None, None, None
    quantity = r.valueQuantity
    unit, unit_code = reader.units(quantity, f"{path}.valueQuantity")
    comparator = reader.coded(quantity.comparator, COMPARATORS, f"{path}.valueQuantity.comparator")
    is_unknown_bound = quantity.comparator is not None and comparator is None
    return (None if is_unknown_bound else quantity.value), comparator, unit, unit_code


def _text(reader: PartReader, r: ValueIn | ObservationIn, path: str) -> TextValue:
    if r.valueString is None:
        return TextValue()
    found = reader.mapping.texts.value(r.valueString)
    if found.is_left_out:
        reader.note("text_left_out", f"{path}.valueString")
    return found


def _range_units(reader: PartReader, found: RangeIn, path: str) -> tuple[str | None, str | None]:
    """The unit of the lower bound, else of the upper one."""
    below = reader.units(found.low or QuantityIn(), f"{path}.low")
    above = reader.units(found.high or QuantityIn(), f"{path}.high")
    return below if below != (None, None) else above


def _exactly(quantity: QuantityIn | None) -> float | None:
    """A number that is no bound."""
    return quantity.value if quantity and quantity.comparator is None else None
