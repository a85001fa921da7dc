"""The history of a study's evidence: refreshes that are never changed, what moved between them, releases."""
