"""Job rows: written with the change that needs them, leased, retried, swept."""
