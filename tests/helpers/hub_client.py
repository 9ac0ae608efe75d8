"""Client processes of the test Hub: snippets of Python, each in a forked child of a process that has imported a lot.

The parent reads HF_ENDPOINT and the rest of its environment at its start, as clients do; a child begins with all
imports done and nothing else. `HubClient` is this end; run as a program this file is the other.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass
class Done:
    """A finished child; `code` is negative for a signal."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line of a refused command: exit code 2, no traceback."""
        lines = [line for line in self.stderr.splitlines() if "error: " in line]
        assert (self.code, len(lines), "Traceback" in self.stderr) == (2, 1, False), self.stderr
        return lines[0]

    @property
    def value(self) -> Any:
        """The JSON on the last line of what was printed."""
        assert self.code == 0, self.stderr
        return json.loads(self.stdout.splitlines()[-1])


class HubClient:
    """`with HubClient(environment, folder, modules) as client: client.run("print(1)").value`."""

    def __init__(self, environment: dict[str, str], folder: Path, modules: tuple[str, ...]):
        self.environment, self.folder, self.modules = environment, folder, modules
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "HubClient":
        command = [sys.executable, str(Path(__file__).resolve()), *self.modules]
        path = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=self.environment | path, cwd=self.folder, text=True, **pipes)
        assert self.process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def run(self, source: str, kill_when: threading.Event | None = None, **environment: str | None) -> Done:
        """Run a snippet; variables may be changed, or with None removed, for this child alone.

        `kill_when`: the child is killed with SIGKILL as soon as the event is set.
        """
        order = {"source": source, "environment": environment}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        came = kill_when is None or kill_when.wait(60)
        if kill_when is not None:
            os.kill(pid, signal.SIGKILL)
        code = int(self.process.stdout.readline())
        assert came, "the moment to kill never came"
        return Done(code, *((self.folder / name).read_text() for name in ("stdout.txt", "stderr.txt")))

    def casita(self, *argv: object, **environment: str | None) -> Done:
        """Run `casita argv...`."""
        words = [str(word) for word in argv]
        return self.run(f"import sys\nfrom casita.cli import main\nsys.exit(main({words!r}))", **environment)


def _serve(modules: list[str]) -> None:
    for module in modules:
        import_module(module)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_child(order))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _child(order: dict[str, Any]) -> int:
    for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    for name, value in order["environment"].items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    code = 0
    try:
        exec(compile(order["source"], "<client>", "exec"), {"__name__": "__main__"})
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    _serve(sys.argv[1:])
