"""From the lake to one checked, published DuckDB file."""
