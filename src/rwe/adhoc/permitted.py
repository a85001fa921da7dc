"""Which values the dictionary may quote: names and codes out of study files, and members of closed sets.

A value stands here because of what it is, not because of the column it was found in: a hospital can write
anything into a field, and whatever is not on these lists is not quoted.
"""

from __future__ import annotations

_MEDICATION = """
    active cancelled completed declined draft entered-in-error in-progress intended not-done not-taken on-hold
    preparation stopped unknown
"""
_STATUS = f"""
    {_MEDICATION} amended arrived corrected final finished onleave planned preliminary progressed registered
    responding other triaged
"""
_SETS = {
    "action": "flag reject",
    "birth_precision": "day month none year",
    "censoring_rule": "data_cutoff last_activity",
    "class_code": "ACUTE AMB EMER FLD HH IMP NONAC OBSENC PRENC SS VR",
    "clinical_status": "active inactive recurrence relapse remission resolved",
    "deceased_precision": "day month none year",
    "end_reason": "data_cutoff death last_activity",
    "gender": "female male other unknown",
    "handling": "censored_with_weights composite treatment_policy",
    "kind": """
        before_index condition maintenance medication observation procedure salvage
    """,
    "medication_source": "concept contained reference",
    "precision": "day month none year",
    "purpose": "covariate criterion",
    "reason": "consent_denied no_consent opt_out",
    "resource_type": """
        Condition Encounter Medication MedicationAdministration MedicationDispense MedicationRequest
        MedicationStatement Observation Patient Procedure
    """,
    "severity": "error warning",
    "source": "death_registry deceased_boolean deceased_date_time",
    "start_kind": "after_grace never salvage within_grace",
    "status": _STATUS,
    "tier": "administration dispense request statement",
    "value_comparator": "< <= > >= ad",
    "verification_status": "confirmed differential entered-in-error provisional refuted unconfirmed",
}

#: Column → the values that may be quoted. Sources: value sets that FHIR R4 binds as required or extensible
#: (administrative-gender, condition-clinical, condition-ver-status, encounter-status, event-status,
#: medication…-status, observation-status, quantity-comparator, v3-ActEncounterCode), and what sql/ writes.
CLOSED: dict[str, frozenset[str]] = {name: frozenset(text.split()) for name, text in _SETS.items()}

#: Column → the columns of `study.*` its values come from: names and codes that a study file holds.
OF_STUDY: dict[str, tuple[tuple[str, str], ...]] = {
    "code": (("codelist", "code"),),
    "codelist": (("codelist", "codelist"),),
    "covariate": (("covariate", "covariate"),),
    "criterion": (("criterion", "criterion"),),
    "event": (("intercurrent_event", "event"),),
    "step": (("step", "step"),),
    "strategy": (("protocol", "treated_name"), ("protocol", "control_name")),
    "study": (("protocol", "study"),),
    "system": (("codelist", "system"),),
    "toxicity": (("toxicity", "toxicity"),),
}
#: Columns of `study.*` that hold words, hashes or versions instead of names: never quoted.
WORDS_OF_STUDY = frozenset({"display", "label", "protocol_sha256", "source", "title", "version"})
