"""Check a tree for the Hub: no pickles, damaged tensors, tokens, links, half-written files."""

import mmap
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import get_token
from safetensors import SafetensorError, safe_open

PICKLED = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")  # suffixes of pickles, by custom
_PICKLE = re.compile(rb"\x80[\x02-\x05]")  # PROTO, the first opcode of every pickle since protocol 2
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")
_UNFINISHED = re.compile(r"^\.lock$|\.partial(\.\w+)?$|^\..+\.old$|\.incomplete$")


def check_tree(folder: Path) -> list[Path]:
    """Return the files of a folder, sorted.

    Raises:
        FileNotFoundError: there is none. ValueError: something in it must not be published; every such file is named.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    if not paths:
        raise FileNotFoundError(f"{folder}: holds no files, so there is nothing to push.")
    if reasons := [f"{path.relative_to(folder)} {reason}" for path in paths for reason in violations(path)]:
        raise ValueError(
            f"{folder}: not fit to be published: {'; '.join(reasons)}. Remove what is named and push again."
        )
    return paths


def violations(path: Path) -> Iterator[str]:
    """Yield why a file must not be published, a phrase each; nothing for a sound one."""
    if path.is_symlink():
        yield "is a link: it may lead out of the folder"
        return
    if _UNFINISHED.search(path.name):
        yield "is half-written, or the lock of a process at work"
    if reason := pickled(path):
        yield reason
    if path.suffix == ".safetensors" and (damage := _damage(path)):
        yield f"is no sound safetensors file ({damage})"
    if _holds_token(path):
        yield "holds an access token: revoke it at https://huggingface.co/settings/tokens"


def pickled(path: Path) -> str | None:
    """Explain how a file could run code when it is loaded: a pickle by name, first bytes, or inside an archive."""
    if path.suffix in PICKLED:
        return f"is a pickle by its name ({path.suffix})"
    with path.open("rb") as file:
        if _PICKLE.match(file.read(2)):
            return "is a pickle by its first bytes"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    if name.endswith(PICKLED) or _PICKLE.match(member.read(2)):
                        return f"is an archive with a pickle in it ({name})"
    return None


def _damage(path: Path) -> str | None:
    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except (SafetensorError, ValueError) as error:
        return str(error)
    return None


def _holds_token(path: Path) -> bool:
    if not path.stat().st_size:
        return False
    token = get_token()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _TOKEN.search(content) is not None or bool(token and content.find(token.encode()) >= 0)
