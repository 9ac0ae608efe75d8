"""Files that are whole or absent: write beside, then rename; one writer a folder; the hashes of a stage's inputs."""

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import SoftFileLock, Timeout

LOCK = ".lock"
LARGEST_JSON = 500_000_000  # bytes; more than any file here, and it still fits into memory
_LEFTOVER = re.compile(r"^\..+\.(\d+)\.(partial(\.\w+)?|old)$")  # the names that `write_beside` gives

_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # NumPy's words for a full disk, without an errno

# Errors of the disk, not of the program: what a person can do about them.
_ADVICE = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space",
    errno.EFBIG: "Raise the limit of a file's size",
    errno.EROFS: "Choose a place that can be written, or mount it so",
    errno.EACCES: "Choose a place that you may write, or ask for the right",
    errno.EPERM: "Choose a place that you may write, or ask for the right",
}


@contextmanager
def locked(folder: Path, command: str) -> Iterator[None]:
    """Be the only writer of `folder` (made if it is not there); the same thread may enter again.

    The lock is the file `.lock` in the folder. That of a dead process on this host is taken over, and what such
    processes left half-written (`.name.PID.partial`) is removed. Readers need no lock: files are whole or absent.

    Args:
        folder: a home folder or a run folder.
        command: the one that wants to write, such as `casita windows`; for the message.

    Raises:
        BlockingIOError: another process is writing; the message names it. OSError: the folder cannot be written.
    """
    folder = Path(folder).resolve()
    made = not folder.exists()
    with _advised(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = SoftFileLock(folder / LOCK, timeout=0, is_singleton=True)
        try:
            lock.acquire()
        except Timeout:
            raise BlockingIOError(f"{command}: {_holder(folder)}") from None
    try:
        remove_leftovers(folder)
        yield
    finally:
        lock.release()
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _holder(folder: Path) -> str:
    """Name the process that holds the lock of `folder`, and what to do, in a sentence or two."""
    lock = folder / LOCK
    try:
        pid, host = lock.read_text(encoding="utf-8").split("\n")[:2]
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(lock.stat().st_mtime))
    except (OSError, ValueError):  # released or written just now
        return f"{folder} is being written by another process. Run the command again when that one has ended."
    return (
        f"{folder} is being written by process {pid} on {host} since {since}. Wait until it has ended, or stop it; "
        f"if {host} has no such process any more, remove {lock}."
    )


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove what processes that are dead left half-written below `folder`; return the paths that were removed.

    A folder that such a process had moved aside, in order to replace it, is put back if the new one never came.
    """
    removed = []
    for root, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            leftover = _LEFTOVER.match(name)
            if leftover is None or _is_alive(int(leftover[1])):
                continue
            path = Path(root, name)
            original = path.with_name(name[1:].removesuffix(f".{leftover[1]}.old"))
            if name.endswith(".old") and not original.exists():
                path.rename(original)
                continue
            _remove(path)
            removed.append(path)
        folders[:] = [name for name in folders if not _LEFTOVER.match(name)]
    return removed


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no process has such a number
        return True
    return True


@contextmanager
def _advised(path: Path) -> Iterator[None]:
    """Turn an error of the disk on writing `path` into one line that says what to do; other errors pass."""
    try:
        yield
    except OSError as error:
        number = error.errno or next((n for n in _ADVICE if os.strerror(n) in str(error)), None)
        if number is None and _SHORT_WRITE.search(str(error)):
            number = errno.ENOSPC
        if number not in _ADVICE or "could not be written" in str(error):  # said already, of a file in a folder
            raise
        raise type(error)(
            f"{path}: could not be written ({os.strerror(number)}); what was there before is as it was. "
            f"{_ADVICE[number]}, and run the same command again."
        ) from error


@contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary name in `path`'s folder; on success it becomes `path`, on any error it is removed.

    Works for a file and for a folder (the body creates whichever it wants). A folder that `path` held before is
    replaced as a whole. A full disk, a target that is read-only, ... is an `OSError` that says what to do.
    """
    path = Path(path)
    with _advised(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix is kept: writers such as PIL and safetensors choose the format by it.
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
        _remove(temporary)
        try:
            yield temporary
            if temporary.is_dir() and path.is_dir():
                old = path.with_name(f".{path.name}.{os.getpid()}.old")
                path.rename(old)
                try:
                    temporary.rename(path)
                except OSError:
                    old.rename(path)
                    raise
                _remove(old)
            else:
                os.replace(temporary, path)
        finally:
            _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with write_beside(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, largest: int = LARGEST_JSON) -> Any:
    """Read one JSON file of at most `largest` bytes; `ValueError` names file, line and column when it is not JSON."""
    if (size := Path(path).stat().st_size) > largest:
        raise ValueError(f"{path}: {size:,} bytes of JSON, expected at most {largest:,}. Is this the right file?")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply for JSON that is meant. Mend or regenerate the file.") from None
    except ValueError as error:  # no JSON, no text, or a number beyond all measure
        raise ValueError(
            f"{path}: expected JSON, found something else ({error}). Mend or regenerate the file."
        ) from None


def hash_file(path: Path) -> str:
    """Return SHA-256 of a file's bytes as hex; of a folder, over the sorted relative names and hashes of its files."""
    path = Path(path)
    if path.is_dir():
        names = sorted(p for p in path.rglob("*") if p.is_file())
        return hash_json([[str(p.relative_to(path)), hash_file(p)] for p in names])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(content: Any) -> str:
    """Return SHA-256 as hex of `content` written as canonical JSON (sorted keys, no blanks)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def slug(model_id: str) -> str:
    """Make a model id, or a model directory's path, part of a file name: `org/gte-base` becomes `org-gte-base`."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", model_id).strip("-.")


def is_home_name(name: Any) -> bool:
    """Return whether a home may be called so: its name becomes that of folders, and often was another's choice."""
    if not isinstance(name, str) or not 0 < len(name) <= 100 or name != name.strip(" ."):
        return False
    return any(map(str.isalnum, name)) and not re.search(r'[/\\:*?"<>|\x00-\x1f]', name)
