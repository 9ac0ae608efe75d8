"""Runs casita commands in forked children of a process that has imported everything once: real processes to kill.

A child may be killed with SIGKILL in the middle, at its n-th file operation below a folder or after so many seconds,
and its files may be limited in size. `ForkServer` is the client; run as a program this file is the server.
"""

import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType

from casita.cli import COMMANDS
from casita.datasets_scripts.stages import STAGES

OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}  # shutil and pathlib end in these


@dataclass
class Done:
    """A finished command; `code` is negative for a signal, `operations` counts those below the watched folder."""

    code: int
    stderr: str
    operations: int
    seconds: float

    @property
    def error(self) -> str:
        """The one line of a refusal: exit code 2, no traceback."""
        lines = [line for line in self.stderr.splitlines() if "error: " in line]
        assert self.code == 2, self.stderr
        assert len(lines) == 1, self.stderr
        assert "Traceback" not in self.stderr, self.stderr
        return lines[0]


class ForkServer:
    """The client: `with ForkServer(folder) as server: server.run("windows", home)`."""

    def __init__(self, folder: Path):
        self.log = folder / "stderr.txt"

    def __enter__(self) -> "ForkServer":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, __file__], env=environment, text=True, **pipes)
        assert self.process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def run(
        self,
        *argv: object,
        watch: Path | None = None,
        kill_at: int | None = None,
        kill_after_s: float | None = None,
        file_limit: int | None = None,
    ) -> Done:
        """Run `casita argv...`; see the module's first lines for the faults. `watch` is the folder of `kill_at`."""
        order = {"argv": [str(word) for word in argv], "log": str(self.log), "watch": str(watch) if watch else None}
        order |= {"kill_at": kill_at, "kill_after_s": kill_after_s, "file_limit": file_limit}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        result = json.loads(self.process.stdout.readline())
        return Done(**result, stderr=self.log.read_text())


def _serve() -> None:
    for stage in STAGES:
        import_module(COMMANDS[stage][0])
    import_module("sentence_transformers")
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_execute(json.loads(line))), flush=True)


def _execute(order: dict) -> dict:
    count, began = mmap.mmap(-1, 8), time.monotonic()
    pid = os.fork()
    if pid == 0:
        os._exit(_child(order, count))
    status = None
    if order["kill_after_s"] is not None:
        while status is None and time.monotonic() - began < order["kill_after_s"]:
            gone, found = os.waitpid(pid, os.WNOHANG)
            status = found if gone else None
            os.sched_yield()
        if status is None:
            os.kill(pid, signal.SIGKILL)
    if status is None:
        _, status = os.waitpid(pid, 0)
    seconds = time.monotonic() - began
    operations = int.from_bytes(count[:8], "little")
    return {"code": os.waitstatus_to_exitcode(status), "operations": operations, "seconds": seconds}


def _child(order: dict, count: mmap.mmap) -> int:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    if order["file_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], resource.RLIM_INFINITY))
    if order["watch"]:
        sys.addaudithook(_killer(order["watch"], order["kill_at"], count))
    code = 1
    try:
        code = import_module("casita.cli").main(order["argv"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _killer(folder: str, kill_at: int | None, count: mmap.mmap):
    def hook(event: str, arguments: tuple) -> None:
        if event not in OPERATIONS or not any(str(word).startswith(folder) for word in arguments):
            return
        done = int.from_bytes(count[:8], "little") + 1
        count[:8] = done.to_bytes(8, "little")
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


if __name__ == "__main__":
    _serve()
