"""A folder and a repository on the Hub made equal, in one commit.

What the repository has already is told by its hashes and does not go up again; large files that an interrupted push
left there are found again by theirs. Equal already: no commit. Somebody else's commit in between: the push looks
again, and goes on top of it.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from casita import __version__
from casita.files import hash_file
from casita.model_cards.tree_check import check_tree

Kind = Literal["model", "dataset", "space"]
TRIES = 3  # of a push that finds somebody else's commit in its way
THEIRS = frozenset({".gitattributes"})  # files that the Hub puts into each repository


class Conflict(Exception):
    """Somebody else's commit came in between."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a folder goes: `name` is `ORG/NAME`; `strict`: a repository that exists must be `private`, or not, too."""

    kind: Kind
    name: str
    revision: str = constants.DEFAULT_REVISION
    private: bool = True
    strict: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def url(self) -> str:
        middle = "" if self.kind == "model" else f"{self.kind}s/"
        return f"{constants.ENDPOINT}/{middle}{self.name}"


@dataclass(frozen=True)
class Changes:
    """Paths of a folder that a commit of the repository lacks or has otherwise, and those that only it has."""

    put: list[str]
    remove: list[str]

    def __bool__(self) -> bool:
        return bool(self.put or self.remove)


@dataclass(frozen=True)
class Pushed:
    """What a push did. `commit`: the repository's newest; `changes`: empty, then there was no commit to make."""

    target: Target
    commit: str
    changes: Changes
    private: bool
    notes: tuple[str, ...] = ()


def push_folder(folder: Path, target: Target, *, message: str, tag: str | None = None, new_tag: bool = True) -> Pushed:
    """Make the repository's branch equal to `folder`, and tag it.

    Args:
        folder: the tree, all of it; `check_tree` must find it sound.
        target: the repository, made if it is not there, and its branch.
        message: of the commit.
        tag: name for what is there afterwards.
        new_tag: whether a tag of that name with other content is an error; False: it stays where it is, and is told.

    Raises:
        ValueError: unfit for publication, metadata that the Hub refuses, another visibility, a tag taken.
        PermissionError: no token, a wrong one, or one that may not write there.
        OSError: the Hub cannot be reached, or others push all the time.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in check_tree(folder)}
    with told_plainly(target):
        api = HfApi(library_name="casita", library_version=__version__)
        private = _make(api, target)
        if tag and new_tag and (taken := _taken(api, target, tag, paths)):
            raise ValueError(f"{target}: {taken}. A tag never moves: give another --tag.")
        for attempt in range(1, TRIES + 1):
            try:
                commit, changes = _commit(api, target, paths, message)
                break
            except Conflict:
                what = "giving up" if attempt == TRIES else f"looking again (try {attempt + 1} of {TRIES})"
                print(f"{target}: somebody else's commit came in between; {what}", flush=True)
        else:
            raise OSError(f"{target}: {TRIES} times another commit came in between. Push again when others are done.")
        return Pushed(target, commit, changes, private, tuple(_tag(api, target, tag, commit, paths)) if tag else ())


def _make(api: HfApi, target: Target) -> bool:
    """Make repository and branch where they are missing; whether it is private."""
    where: dict[str, Any] = {"repo_id": target.name, "repo_type": target.kind}
    sdk = "gradio" if target.kind == "space" else None
    api.create_repo(**where, private=target.private, exist_ok=True, space_sdk=sdk)
    private = bool(api.repo_info(**where).private)
    if target.strict and private != target.private:
        found, wanted = ("private", "public") if private else ("public", "private")
        raise ValueError(
            f"{target}: is {found}, and was to be {wanted}. Change that at {target.url}/settings, or give --{found}."
        )
    if target.revision != constants.DEFAULT_REVISION:
        api.create_branch(**where, branch=target.revision, exist_ok=True)
    return private


def _commit(api: HfApi, target: Target, paths: dict[str, Path], message: str) -> tuple[str, Changes]:
    """One commit that makes the branch equal to `paths`; none where it is. The newest commit, and what changed.

    Raises:
        Conflict: the branch moved meanwhile.
    """
    where: dict[str, Any] = {"repo_id": target.name, "repo_type": target.kind, "revision": target.revision}
    head = str(api.repo_info(**where).sha)
    changes = _compare(api, target, head, paths)
    if not changes:
        return head, changes
    operations: list[Any] = [CommitOperationAdd(path, paths[path]) for path in changes.put]
    operations += [CommitOperationDelete(path) for path in changes.remove]
    try:
        with warnings.catch_warnings():
            # a page shows tables, and the client warns of any in a repository of another kind
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            info = api.create_commit(**where, operations=operations, commit_message=message, parent_commit=head)
    except HfHubHTTPError as error:
        if error.response.status_code in (409, 412):
            raise Conflict from None
        raise
    return info.oid, changes


def _compare(api: HfApi, target: Target, commit: str, paths: dict[str, Path]) -> Changes:
    """How a commit of the repository differs from the folder's files."""
    entries = api.list_repo_tree(target.name, recursive=True, revision=commit, repo_type=target.kind)
    there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    put = [name for name, path in paths.items() if name not in there or not _is_equal(path, there[name])]
    return Changes(put, sorted(there.keys() - paths.keys() - THEIRS))


def _is_equal(path: Path, entry: RepoFile) -> bool:
    if path.stat().st_size != entry.size:
        return False
    return hash_file(path) == entry.lfs.sha256 if entry.lfs else git_hash(path.read_bytes()) == entry.blob_id


def _taken(api: HfApi, target: Target, tag: str, paths: dict[str, Path]) -> str | None:
    """Where a tag of that name stands, if it has other content than `paths`."""
    refs = api.list_repo_refs(target.name, repo_type=target.kind)
    found = next((ref.target_commit for ref in refs.tags if ref.name == tag), None)
    if found is None or not _compare(api, target, found, paths):
        return None
    return f"tag {tag} is at commit {found[:8]}, whose files are others"


def _tag(api: HfApi, target: Target, tag: str, commit: str, paths: dict[str, Path]) -> Iterator[str]:
    """Name `commit`; notes about that."""
    if taken := _taken(api, target, tag, paths):
        yield f"{taken}, and stays there; --tag NEW names this commit"
        return
    api.create_tag(target.name, tag=tag, revision=commit, repo_type=target.kind, exist_ok=True)
    yield f"tag {tag}"


@contextmanager
def told_plainly(target: Target) -> Iterator[None]:
    """Turn what client, network and Hub have against a push into one line that says what to do. No token is in it."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise OSError(f"{target}: HF_HUB_OFFLINE is set, and a push needs the Hub. Unset it.") from None
    except Exception as error:
        if "xet-write-token" in str(error):  # the client has no other way of its own accord
            raise OSError(f"{target}: {constants.ENDPOINT} has no Xet storage. Set HF_HUB_DISABLE_XET=1.") from None
        if isinstance(error, ValueError):
            raise error if target.name in str(error) else ValueError(f"{target}: {error}") from None
        chain = [error, error.__cause__, getattr(error.__cause__, "__cause__", None)]
        if refusal := next((each for each in chain if isinstance(each, HfHubHTTPError)), None):
            raise _refused(target, refusal) from None
        # Uploads wrap their error in a RuntimeError; the network library's own are no OSErrors.
        if isinstance(error, RuntimeError) or type(error).__module__.startswith("httpx"):
            why = " ".join(str(next(each for each in reversed(chain) if each is not None)).split()) or type(error)
            raise OSError(
                f"{target}: the connection to {constants.ENDPOINT} broke ({why}). The same command goes on where this "
                "one stopped."
            ) from None
        raise


def _refused(target: Target, error: HfHubHTTPError) -> Exception:
    status = error.response.status_code
    login = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write"
    if status == 401:
        found = "does not know this token" if get_token() else "asks for a token, and there is none"
        return PermissionError(f"{target}: {constants.ENDPOINT} {found} (401). {login}.")
    if status == 403:
        namespace = target.name.partition("/")[0]
        return PermissionError(f"{target}: the token may not write to {namespace} (403). {login} there.")
    why = " ".join((error.server_message or str(error)).split())
    if status == 404:
        return FileNotFoundError(f"{target}: {constants.ENDPOINT} has it not, or not for this token (404: {why}).")
    return OSError(f"{target}: {constants.ENDPOINT} refused ({status}: {why}).")


def told(pushed: Pushed) -> str:
    """One line about a push, with its link."""
    changes, target = pushed.changes, pushed.target
    visibility = "private" if pushed.private else "public"
    done = "nothing changed, no commit"
    if changes:
        few = ", ".join(changes.remove[:5]) + (", ..." if len(changes.remove) > 5 else "")
        done = f"{len(changes.put)} files put, {len(changes.remove)} removed{f' ({few})' if few else ''}"
        done += f", commit {pushed.commit[:8]}"
    branch = "" if target.revision == constants.DEFAULT_REVISION else f"/tree/{target.revision}"
    return f"{target} ({visibility}): {'; '.join([done, *pushed.notes])}\n  {target.url}{branch}"
