"""Cohort tables that leave a site for one study (`rwe share`), and arrive at the hub (`rwe collect`)."""
