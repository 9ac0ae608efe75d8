"""Data that is named instead of given: `ORG/NAME` or `ORG/NAME@REVISION` on the Hub, where a folder is taken.

The repository is fetched into the Hub's cache once a commit, and made into home folders beside it. A second time, and
offline, nothing is fetched.
"""

import re
from pathlib import Path

from filelock import FileLock
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import RevisionResolutionError

from casita.datasets_scripts.hub.published_homes import home_from_dataset
from casita.datasets_scripts.schema import HomeFolder, home_folders

NAME = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w][\w./-]*))?")


def resolve_revision(data: str) -> str:
    """Return a folder as it is, and a data set on the Hub as `ORG/NAME@COMMIT`, its revision's commit now.

    Raises:
        FileNotFoundError: no such folder, and no such data set on the Hub or in its cache.
    """
    named = _parse_name(data)
    if named is None:
        return data
    repo, revision = named
    try:
        resolved = HfApi().resolve_revision(repo, repo_type="dataset", revision=revision)
    except (OSError, ValueError, RevisionResolutionError) as error:  # not there, not for this token, out of reach
        raise _missing_error(data, error) from None
    return f"{repo}@{resolved.resolved}"


def data_folder(data: Path | str) -> Path:
    """Return the folder of `data`: itself, or home folders made of a data set on the Hub. Safe to call on every rank.

    Raises:
        FileNotFoundError: neither. ValueError: a data set whose files are not what its checksums say.
    """
    if _parse_name(data) is None:
        return Path(data)
    repo, commit = resolve_revision(str(data)).split("@")
    homes = Path(constants.HF_HOME, "casita", "homes", repo.replace("/", "--"), commit)
    if not homes.is_dir():
        try:
            snapshot = Path(snapshot_download(repo, repo_type="dataset", revision=commit))
        except (OSError, ValueError) as error:
            raise _missing_error(data, error) from None
        homes.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(homes.with_suffix(".made")):  # other processes wait; `home_from_dataset` would refuse them
            home_from_dataset(snapshot, homes)
    return homes


def named_homes(data: Path | str) -> list[HomeFolder]:
    """Return the home folders of `data_folder(data)`."""
    return home_folders(data_folder(data))


def _parse_name(data: Path | str) -> tuple[str, str | None] | None:
    """Return id and revision of a data set on the Hub; None for what is a folder, or cannot be anything else."""
    match = NAME.fullmatch(str(data))
    return (match["id"], match["revision"]) if match and not Path(data).exists() else None


def _missing_error(data: Path | str, error: Exception) -> FileNotFoundError:
    reason = " ".join(str(error).split())[:160].rstrip(" .")
    return FileNotFoundError(
        f"{data}: holds no home.json, for there is no such folder; nor does {constants.ENDPOINT} give a data set of "
        f"this name ({type(error).__name__}: {reason})."
    )
