"""Synthetic hospitals with a known truth, served over real FHIR HTTP."""
