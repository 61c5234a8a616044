"""The development payment gateway: a separate service with its own ledger (INT-001).

It imports nothing of the rest of the system, so that it can be an honest oracle: what its ledger says
moved is what moved, whether or not the system recorded it. `devtools.mock_gateway.main` describes the interface.
"""
