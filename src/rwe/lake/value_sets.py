"""The value sets that R4 requires: what is coded by one enters the lake only as one of its codes.

https://hl7.org/fhir/R4/valueset-NAME.html, NAME as noted.
"""

from __future__ import annotations


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: The statuses, by type.
STATUSES: dict[str, frozenset[str]] = {
    "MedicationAdministration": _codes(  # medication-admin-status
        "in-progress not-done on-hold completed entered-in-error stopped unknown"
    ),
    "MedicationRequest": _codes(  # medicationrequest-status
        "active on-hold cancelled completed entered-in-error stopped draft unknown"
    ),
    "MedicationDispense": _codes(  # medicationdispense-status
        "preparation in-progress cancelled on-hold completed entered-in-error stopped declined unknown"
    ),
    "MedicationStatement": _codes(  # medication-statement-status
        "active completed entered-in-error intended stopped on-hold unknown not-taken"
    ),
    "Medication": _codes("active inactive entered-in-error"),  # medication-status
    "Observation": _codes(  # observation-status
        "registered preliminary final amended corrected cancelled entered-in-error unknown"
    ),
    "Procedure": _codes(  # event-status
        "preparation in-progress not-done on-hold stopped completed entered-in-error unknown"
    ),
    "Encounter": _codes(  # encounter-status
        "planned arrived triaged in-progress onleave finished cancelled entered-in-error unknown"
    ),
    "Consent": _codes(  # consent-state-codes
        "draft proposed active rejected inactive entered-in-error"
    ),
}
GENDERS = _codes("male female other unknown")  # administrative-gender
INTENTS = _codes(  # medicationrequest-intent
    "proposal plan order original-order reflex-order filler-order instance-order option"
)
COMPARATORS = _codes("< <= >= >")  # quantity-comparator
CLINICAL_STATUSES = _codes("active recurrence relapse inactive remission resolved")  # condition-clinical
VERIFICATION_STATUSES = _codes(  # condition-ver-status
    "unconfirmed provisional differential confirmed refuted entered-in-error"
)
ENCOUNTER_CLASSES = _codes("AMB EMER FLD HH IMP ACUTE NONAC OBSENC PRENC SS VR")  # v3-ActEncounterCode
CONSENT_SCOPES = _codes("adr research patient-privacy treatment")  # consent-scope
PROVISION_TYPES = _codes("deny permit")  # consent-provision-type
#: In place of a scope of another code system: such a Consent is not one to research, and has a scope.
OTHER_SCOPE = "other"
PERIOD_UNITS = _codes("s min h d wk mo a")  # units-of-time
