"""Programs that run on this machine: processes, the data folder, and a PostgreSQL server of our own."""
