"""How far to restore, and from which base backup (NFR-003)."""

from dataclasses import dataclass
from datetime import datetime

from app.backup.errors import BackupError
from app.backup.repository import Manifest, Point, Repository, parse_lsn


@dataclass(frozen=True)
class Target:
    """How far to restore: `time`, `point`, or everything that is kept when both are None."""

    time: datetime | None = None
    point: Point | None = None

    @classmethod
    def parse(cls, text: str, repository: Repository) -> "Target":
        """Return the target that a person names: `latest`, a restore point, or a time as in RFC 3339 with its zone.

        Raises:
            BackupError: it is none of them.
        """
        if text == "latest":
            return cls()
        points = repository.points()
        if text in points:
            return cls(point=points[text])
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            known = ", ".join(points) or "none"
            raise BackupError(f"{text} is neither `latest` nor a time nor a restore point; known: {known}") from None
        if moment.tzinfo is None:
            raise BackupError(f"{text} needs its time zone, as in 2026-11-23T14:00:00+01:00")
        return cls(time=moment)

    def options(self) -> dict[str, str]:
        """Return the settings of PostgreSQL that recover up to it.

        The log is followed on the timeline of the base backup: a database that was restored goes on on another one, and
        its log is kept from its own first base backup on.
        """
        common = {"recovery_target_timeline": "current", "recovery_target_action": "promote"}
        if self.point is not None:
            return {**common, "recovery_target_name": self.point.name}
        if self.time is not None:
            return {**common, "recovery_target_time": self.time.isoformat(" ")}
        return common


def base_for(repository: Repository, target: Target) -> Manifest:
    """Return the newest base backup that was whole before the target.

    Raises:
        BackupError: there is none.
    """
    for backup in reversed(repository.backups()):
        if target.point is not None:
            point = target.point
            reached = parse_lsn(backup.stop_lsn) <= parse_lsn(point.lsn) and backup.timeline == point.timeline
            if reached and backup.finished_at <= point.at:
                return backup
        elif target.time is None or datetime.fromisoformat(backup.finished_at) <= target.time:
            return backup
    raise BackupError("there is no base backup from before this target")
