"""From landed bytes to typed, pseudonymised Parquet."""
