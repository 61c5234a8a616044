"""Money in and out: the ledger, capture, refunds, disputes, webhooks and reconciliation."""
