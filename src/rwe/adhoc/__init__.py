"""Ad hoc SQL: a researcher's questions to the published database, and no way to anything else."""
