"""Measurements, side by side and repeatable: see benchmarks/README.md."""
