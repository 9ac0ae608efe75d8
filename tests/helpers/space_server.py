"""The page in a process of its own, on a free port."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

READY = "Running on local URL"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def running(command: list[str], cwd: Path, **environment: str) -> Iterator[tuple[str, Path]]:
    """The address of the page that `command` serves, and the file that its output goes to."""
    port, log_file = free_port(), cwd / "server.txt"
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "GRADIO_SERVER_PORT": str(port), "PYTHONUNBUFFERED": "1"}
    environment = {**os.environ, **offline, **environment}
    server = subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        for line in server.stdout:  # ends when the process does
            lines.append(line)
            if READY in line:
                break
        log_file.write_text("".join(lines))
        assert READY in "".join(lines), "".join(lines)
        yield f"http://127.0.0.1:{port}", log_file
    finally:
        server.terminate()
        server.communicate(timeout=30)
