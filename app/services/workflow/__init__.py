"""State machines, the one statement that moves an order or a return, its history and the audit trail."""
