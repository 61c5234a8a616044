"""`articurated` without the second that importing it takes: a process that has it loaded forks for each call.

`python -m tests.e2e.warm_command SOCKET` serves; `CLIENT` is the program that replaces the command: it hands over
its arguments, folder, environment and open files, and ends as the call ended.
"""

import importlib
import json
import os
import socket
import sys
from pathlib import Path

from app.cli.main import main

CLIENT = """\
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({path!r})
    call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(line, [len(call).to_bytes(4)], [0, 1, 2])
    line.sendall(call)
    sys.exit(int(line.recv(10)))
"""
LOADED = (
    "app.cli.operations",
    "app.dependencies",
    "app.doctor",
    "app.utils.mail_templates",
    "app.services.documents.invoices",
)


def serve(path: Path) -> None:
    """Answer one call after the other, for as long as this process lives."""
    for name in LOADED:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen()
        while True:
            line, _ = door.accept()
            with line:
                size, files, _, _ = socket.recv_fds(line, 4, 3)
                call = b""
                while len(call) < int.from_bytes(size):
                    call += line.recv(65536)
                child = os.fork() or _run(call, files)
                for file in files:
                    os.close(file)
                line.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def _run(call: bytes, files: list[int]) -> int:
    """Be the command, in a process of its own; never returns."""
    words, folder, environment = json.loads(call)
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = words
    code: object = 1
    try:
        main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
