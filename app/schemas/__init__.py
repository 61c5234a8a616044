"""Requests and responses: what crosses the wire, per noun."""
