"""Who may do what, and how often: permissions, keys, tokens, idempotency keys, rate limits."""
