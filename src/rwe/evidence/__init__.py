"""The contract of evidence.json and what is written to it."""
