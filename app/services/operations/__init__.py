"""For those who run the system: health, statistics, dead letters, schema and guard checks, replication."""
