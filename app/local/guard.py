"""Exec wrapper of every child: drop privileges, ask the kernel to end us with our parent, run the command.

Done in a process of its own rather than in `preexec_fn`, which may deadlock in a parent that has threads.
The order matters: changing the user id clears the death signal, and a parent that ended before `prctl` was
reached would never be noticed, so the parent is looked at again afterwards.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
"""Linux `prctl` option: the signal this process gets when the thread that started it ends."""
PR_SET_CHILD_SUBREAPER = 36
"""Linux `prctl` option: orphaned descendants become children of this process."""


def die_with_parent(parent: int, signum: int) -> None:
    """Have the kernel send `signum` to this process when `parent` ends (Linux; elsewhere nothing happens).

    Raises:
        OSError: the kernel refused.
        SystemExit: the parent is gone already.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise SystemExit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that it can be ended and reaped here.

    Linux; elsewhere they go to the first process of the system, as always.

    Raises:
        OSError: the kernel refused.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def become(uid: int, gid: int) -> None:
    """Change to another user permanently, without supplementary groups."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def main(argv: list[str]) -> None:
    """Run `PARENT SIGNAL UID GID COMMAND...`; a UID of -1 keeps the user. Does not return."""
    parent, signum, uid, gid = (int(value) for value in argv[:4])
    command = argv[4:]
    if uid >= 0:
        become(uid, gid)
    die_with_parent(parent, signum)
    os.execvp(command[0], command)  # noqa: S606 # nosec B606


if __name__ == "__main__":
    main(sys.argv[1:])
