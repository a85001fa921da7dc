"""Scheduled operation: what `rwe deploy` sets up in Prefect, and what runs tell it. The one room but flows/
that imports Prefect; only `rwe deploy` and flows/ import it."""
