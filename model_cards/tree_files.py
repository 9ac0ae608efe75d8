"""The folder of a repository as it is written: whole or not at all, and nothing in it that loading would run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from casita.datasets_scripts.hub.published_homes import SUMS
from casita.files import hash_file, write_beside

ALLOWED_SUFFIXES = {"", ".html", ".json", ".md", ".parquet", ".png", ".py", ".safetensors", ".yaml"}
PLAN_SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp"}


@contextmanager
def written_tree(out: Path) -> Iterator[Path]:
    """Yield the folder that becomes `out`, whole or not at all; `ValueError` for a kind of file that has no place."""
    with write_beside(Path(out)) as tree:
        tree.mkdir()
        yield tree
        for path in sorted(tree.rglob("*")):
            if path.is_file() and path.suffix not in ALLOWED_SUFFIXES | PLAN_SUFFIXES:
                raise ValueError(f"{path.name}: a {path.suffix} file has no place in a repository: remove it.")


def write_checksums(tree: Path) -> None:
    """Write `SHA256SUMS` of all files of the tree, as `sha256sum --check` reads it."""
    names = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()} - {SUMS}
    lines = "".join(f"{hash_file(tree / name)}  {name}\n" for name in sorted(names))
    (tree / SUMS).write_text(lines, encoding="utf-8")
