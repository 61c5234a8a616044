"""Photos without metadata: each is cleaned by a child process, a few at once (NFR-004)."""

import asyncio
import signal
import sys
from contextlib import suppress

import structlog

from app.utils import photo_cleaner
from app.utils.exceptions import InvalidInputError, ServiceUnavailableError, UnsupportedMediaTypeError
from app.utils.held_file import HeldFile
from app.utils.media_types import ACCEPTED, HEIC, JPEG, MediaType

CLEANED_AT_ONCE = 2
WAIT_SECONDS = 60.0
CLEANING_SECONDS = 60.0

logger = structlog.get_logger(__name__)

# The limit of CPU time, and what a decoder does that a damaged photo leads astray.
_FAULTS_OF_THE_PHOTO = {signal.SIGXCPU, signal.SIGXFSZ, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE}


class PhotoCleaner:
    """Cleans photos, `CLEANED_AT_ONCE` of them at a time."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(CLEANED_AT_ONCE)

    async def clean(self, photo: HeldFile, kind: MediaType, field: str) -> tuple[HeldFile, MediaType]:
        """Return a photo without its metadata, to be closed by the caller, and its kind: HEIC becomes JPEG.

        Args:
            photo: of which `sniff` says that it is of `kind`.
            field: what errors call it.

        Raises:
            UnsupportedMediaTypeError: it cannot be decoded, or not within the limits of memory and time.
            InvalidInputError: it has too many pixels.
            ServiceUnavailableError: too many others are being cleaned.
        """
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise ServiceUnavailableError("Too many photos are being read right now; try again in a moment.") from None
        cleaned = HeldFile()
        try:
            status, reason = await _run(photo, kind, cleaned)
            _require_success(status, reason, kind, field)
            await asyncio.to_thread(cleaned.take_over)
        except BaseException:
            cleaned.close()
            raise
        finally:
            self._turns.release()
        return cleaned, JPEG if kind is HEIC else kind


async def _run(photo: HeldFile, kind: MediaType, cleaned: HeldFile) -> tuple[int | None, str]:
    """Return the child's exit status, None where it took too long, and what it says."""
    # By its path and without an environment: it has no use for our settings and their secrets.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", photo_cleaner.__file__, kind.name),
        stdin=photo.descriptor(),
        stdout=cleaned.descriptor(),
        stderr=asyncio.subprocess.PIPE,
        env={},
    )
    try:
        async with asyncio.timeout(CLEANING_SECONDS):
            _, said = await process.communicate()
    except TimeoutError:
        return None, "out of time"
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode, said.decode(errors="replace")


def _require_success(status: int | None, reason: str, kind: MediaType, field: str) -> None:
    if status == 0:
        return
    if status == photo_cleaner.TOO_MANY_PIXELS:
        maximum = photo_cleaner.PIXELS_MAXIMUM // 1_000_000
        raise InvalidInputError((field, f"has more than {maximum} million pixels"))
    is_refused = status in {None, photo_cleaner.UNDECODABLE, photo_cleaner.OUT_OF_MEMORY}
    if not is_refused and (status is None or -status not in _FAULTS_OF_THE_PHOTO):
        logger.error("photo_cleaner.failed", status=status, error=reason[-500:])
        raise ServiceUnavailableError("The photo cannot be read right now; try again in a moment.")
    # The decoder's words are for the log: they may quote the file.
    logger.info("photo.refused", media_type=kind.name, status=status, error=reason[:200])
    raise UnsupportedMediaTypeError(
        f"The file begins as {kind.name} but cannot be decoded.", {"accepted": [known.name for known in ACCEPTED]}
    )
