"""ArtiCurated: the system of record for orders and returns of high-value artisanal goods."""

__version__ = "0.1.0"
