"""Estimators: pure functions, tables in, result objects out. They know no database."""
