"""Make a repository on the Hub equal to a folder, in one commit.

Files that the repository has already, by their hashes, do not go up again; nor do large files that an interrupted push
left there. Equal already: no commit. Somebody else's commit in between: the push looks again, and goes on top of it.
"""

import re
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
REFERENCE = re.compile(r"\w(?:[\w-]|[./](?=\w))*", re.ASCII)  # git takes more names, and nobody can type them
FILES_OF_THE_HUB = frozenset({".gitattributes"})  # the Hub puts them into each repository


class Conflict(Exception):
    """Somebody else's commit came in between."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The repository of a push, `ORG/NAME`; `strict`: one that exists must be `private`, or not, too."""

    kind: Kind
    name: str
    revision: str = constants.DEFAULT_REVISION
    private: bool = True
    strict: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def url(self) -> str:
        """Return the address of the repository's page."""
        middle = "" if self.kind == "model" else f"{self.kind}s/"
        return f"{constants.ENDPOINT}/{middle}{self.name}"

    @property
    def repository(self) -> dict[str, Any]:
        """Return the arguments by which the client finds the repository."""
        return {"repo_id": self.name, "repo_type": self.kind}


@dataclass(frozen=True)
class Changes:
    """Paths of a folder that a commit of the repository lacks or has otherwise, and those that only it has."""

    put: list[str]
    remove: list[str]

    def __bool__(self) -> bool:
        return bool(self.put or self.remove)


@dataclass(frozen=True)
class PushResult:
    """The outcome of a push: the newest commit, and the changes; none of them, then there was no commit to make."""

    target: Target
    commit: str
    changes: Changes
    private: bool
    notes: tuple[str, ...] = ()


def push_folder(
    folder: Path, target: Target, *, message: str, tag: str | None = None, new_tag: bool = True
) -> PushResult:
    """Make the repository's branch equal to `folder`, and tag it.

    Args:
        folder: the tree, all of it; `check_tree` must find it sound.
        target: the repository, made if it is not there, and its branch.
        message: of the commit.
        tag: name for what is there afterwards.
        new_tag: whether a tag of that name with other content is an error; False: it stays where it is, with a note.

    Raises:
        ValueError: unfit for publication, metadata that the Hub refuses, another visibility, a tag taken.
        PermissionError: no token, a wrong one, or one that may not write there.
        OSError: the Hub cannot be reached, or others push all the time.
    """
    for kind, name in (("branch", target.revision), ("tag", tag)):
        if name is not None and not REFERENCE.fullmatch(name):
            raise ValueError(
                f"{target}: {kind} {name!r}: expected letters, digits, '.', '_', '-' and '/', as in v1.0."
            )
    paths = {path.relative_to(folder).as_posix(): path for path in check_tree(folder)}
    with plain_errors(target):
        api = HfApi(library_name="casita", library_version=__version__)
        private = _create(api, target)
        if tag and new_tag and (conflict := _tag_conflict(api, target, tag, paths)):
            raise ValueError(f"{target}: {conflict}. A tag never moves: give another --tag.")
        for attempt in range(1, TRIES + 1):
            try:
                commit, changes = _commit(api, target, paths, message)
                break
            except Conflict:
                outcome = "giving up" if attempt == TRIES else f"looking again (try {attempt + 1} of {TRIES})"
                print(f"{target}: somebody else's commit came in between; {outcome}", flush=True)
        else:
            raise OSError(f"{target}: {TRIES} times another commit came in between. Push again when others are done.")
        return PushResult(target, commit, changes, private, (_tag(api, target, tag, commit, paths),) if tag else ())


def _create(api: HfApi, target: Target) -> bool:
    """Create repository and branch where they are missing, and return whether the repository is private."""
    sdk = "gradio" if target.kind == "space" else None
    api.create_repo(**target.repository, private=target.private, exist_ok=True, space_sdk=sdk)
    private = bool(api.repo_info(**target.repository).private)
    if target.strict and private != target.private:
        found, wanted = ("private", "public") if private else ("public", "private")
        raise ValueError(
            f"{target}: is {found}, and was to be {wanted}. Change that at {target.url}/settings, or give --{found}."
        )
    if target.revision != constants.DEFAULT_REVISION:
        api.create_branch(**target.repository, branch=target.revision, exist_ok=True)
    return private


def _commit(api: HfApi, target: Target, paths: dict[str, Path], message: str) -> tuple[str, Changes]:
    """Make the branch equal to `paths` in one commit, or none where it is; return the newest commit and the changes.

    Raises:
        Conflict: the branch moved meanwhile.
    """
    branch: dict[str, Any] = {**target.repository, "revision": target.revision}
    head = str(api.repo_info(**branch).sha)
    changes = _compare(api, target, head, paths)
    if not changes:
        return head, changes
    operations: list[Any] = [CommitOperationAdd(path, paths[path]) for path in changes.put]
    operations += [CommitOperationDelete(path) for path in changes.remove]
    try:
        with warnings.catch_warnings():
            # a page shows tables, and the client warns of any in a repository of another kind
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            info = api.create_commit(**branch, operations=operations, commit_message=message, parent_commit=head)
    except HfHubHTTPError as error:
        if error.response.status_code in (409, 412):
            raise Conflict from None
        raise
    return info.oid, changes


def _compare(api: HfApi, target: Target, commit: str, paths: dict[str, Path]) -> Changes:
    """Return how the folder's files differ from a commit of the repository."""
    entries = api.list_repo_tree(**target.repository, recursive=True, revision=commit)
    remote = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    put = [name for name, path in paths.items() if name not in remote or not _is_equal(path, remote[name])]
    return Changes(put, sorted(remote.keys() - paths.keys() - FILES_OF_THE_HUB))


def _is_equal(path: Path, entry: RepoFile) -> bool:
    if path.stat().st_size != entry.size:
        return False
    return hash_file(path) == entry.lfs.sha256 if entry.lfs else git_hash(path.read_bytes()) == entry.blob_id


def _tag_conflict(api: HfApi, target: Target, tag: str, paths: dict[str, Path]) -> str | None:
    """Say where a tag of that name stands, if it has other content than `paths`."""
    refs = api.list_repo_refs(**target.repository)
    commit = next((ref.target_commit for ref in refs.tags if ref.name == tag), None)
    if commit is None or not _compare(api, target, commit, paths):
        return None
    return f"tag {tag} is at commit {commit[:8]}, whose files are others"


def _tag(api: HfApi, target: Target, tag: str, commit: str, paths: dict[str, Path]) -> str:
    """Tag `commit`, unless a tag of that name has other content; return a note about it."""
    if conflict := _tag_conflict(api, target, tag, paths):
        return f"{conflict}, and stays there; --tag NEW names this commit"
    api.create_tag(**target.repository, tag=tag, revision=commit, exist_ok=True)
    return f"tag {tag}"


@contextmanager
def plain_errors(target: Target) -> Iterator[None]:
    """Turn errors of client, network and Hub into one line that says what to do. No token is in it."""
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
        if refusal := next((link for link in chain if isinstance(link, HfHubHTTPError)), None):
            raise _refused(target, refusal) from None
        # Uploads wrap their error in a RuntimeError; the network library's own are no OSErrors.
        if isinstance(error, RuntimeError) or type(error).__module__.startswith("httpx"):
            root = next(link for link in reversed(chain) if link is not None)
            reason = " ".join(str(root).split()) or type(error)
            raise OSError(
                f"{target}: the connection to {constants.ENDPOINT} broke ({reason}). The same command goes on where "
                "this one stopped."
            ) from None
        raise


def _refused(target: Target, error: HfHubHTTPError) -> OSError:
    """Return the error for an answer of the Hub."""
    status = error.response.status_code
    login = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write"
    if status == 401:
        answer = "does not know this token" if get_token() else "asks for a token, and there is none"
        return PermissionError(f"{target}: {constants.ENDPOINT} {answer} (401). {login}.")
    if status == 403:
        namespace = target.name.partition("/")[0]
        return PermissionError(f"{target}: the token may not write to {namespace} (403). {login} there.")
    reason = " ".join((error.server_message or str(error)).split())
    if status == 404:
        return FileNotFoundError(f"{target}: {constants.ENDPOINT} has it not, or not for this token (404: {reason}).")
    return OSError(f"{target}: {constants.ENDPOINT} refused ({status}: {reason}).")


def describe_push(result: PushResult) -> str:
    """Describe a push in one line, with its link."""
    changes = result.changes
    target = result.target
    visibility = "private" if result.private else "public"
    done = "nothing changed, no commit"
    if changes:
        removed = ", ".join(changes.remove[:5]) + (", ..." if len(changes.remove) > 5 else "")
        done = f"{len(changes.put)} files put, {len(changes.remove)} removed{f' ({removed})' if removed else ''}"
        done += f", commit {result.commit[:8]}"
    branch = "" if target.revision == constants.DEFAULT_REVISION else f"/tree/{target.revision}"
    return f"{target} ({visibility}): {'; '.join([done, *result.notes])}\n  {target.url}{branch}"
