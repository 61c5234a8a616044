"""Business rules: one room a capability, above the shared state machine, audit, events and jobs."""
