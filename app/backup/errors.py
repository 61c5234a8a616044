"""What can go wrong with a backup, in a sentence for a person."""


class BackupError(Exception):
    """A backup cannot be made, read or restored; nothing was overwritten."""


class LogLostError(BackupError):
    """The server has not kept the log that follows the last base backup; only another one can go on from here."""
