"""The payment port and its HTTP adapter."""
