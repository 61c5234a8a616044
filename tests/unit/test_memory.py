"""The allocator of an API process (NFR-001)."""

import platform
import subprocess
import sys

import pytest

from app.config import ROOT


@pytest.mark.req("NFR-001")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has this option")
def test_glibc_takes_the_limit_of_arenas() -> None:
    source = "from app.utils.memory import limit_arenas; print(limit_arenas())"
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr
