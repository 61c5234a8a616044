"""Money in and out: capture, refunds, disputes, webhooks and reconciliation."""
