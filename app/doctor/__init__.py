"""`articurated doctor`: every part that the configuration names, looked at as the system would use it."""

from app.doctor.findings import Finding, Level
from app.doctor.rounds import examine

__all__ = ["Finding", "Level", "examine"]
