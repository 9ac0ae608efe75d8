"""The repositories of the test Hub: immutable commits, branches and tags, who may read and write, and large files.

A commit is a tree of `Blob`s; contents lie in a folder, by hash. Large files come first (`objects`), a commit then
names them. Everything that is refused is a `HubError`, which the server turns into the Hub's status and error headers.
"""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

LARGE = (".safetensors", ".parquet", ".arrow", ".bin", ".onnx", ".npz", ".npy", ".gz", ".zip", ".png", ".jpg", ".pt")
LARGEST_REGULAR = 10_000_000  # bytes; the Hub refuses more in git itself
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE).encode()


class HubError(Exception):
    """What the Hub answers instead: status, a sentence, the code that clients look at, and more of the body."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: str):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


@dataclass(frozen=True)
class User:
    """Whose token it is. `may_write`: a token can be for reading only."""

    name: str
    organizations: tuple[str, ...] = ()
    may_write: bool = True

    def belongs_to(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.organizations


@dataclass(frozen=True)
class Blob:
    """A file of a tree: git's `oid`, and of a large file also the `sha256` by which it is kept."""

    oid: str
    size: int
    sha256: str | None = None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Commit:
    """A whole tree, and the commit before it."""

    oid: str
    parent: str | None
    title: str
    date: str
    files: dict[str, Blob]


@dataclass
class Repo:
    """One repository; the lock makes a commit one step."""

    kind: str
    name: str
    private: bool
    sdk: str | None
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)  # sha256 of the large files that were uploaded to it
    lock: Any = field(default_factory=threading.RLock)

    @property
    def namespace(self) -> str:
        return self.name.partition("/")[0]

    @property
    def path(self) -> str:
        """The repository in an address, below the endpoint."""
        return self.name if self.kind == "model" else f"{self.kind}s/{self.name}"

    def commit(self, revision: str) -> Commit:
        """The commit of a branch, a tag or a hash; as `main` is named when nobody says otherwise."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def file(self, revision: str, path: str) -> Blob:
        blob = self.commit(revision).files.get(path)
        if blob is None:
            raise HubError(404, "Entry not found", "EntryNotFound")
        return blob


class Store:
    """All repositories, users and contents."""

    def __init__(self, folder: Path, users: dict[str, User]):
        self.folder, self.users = folder, users
        self.repos: dict[tuple[str, str], Repo] = {}
        self._lock = threading.Lock()
        (folder / "contents").mkdir(parents=True, exist_ok=True)

    # ------------------------------------------------------------------------------------------------ who may what
    def user(self, token: str | None) -> User | None:
        """Whose token; None without one."""
        if token is None:
            return None
        if token not in self.users:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.users[token]

    def readable(self, kind: str, name: str, user: User | None) -> Repo:
        """The repository, which a private one is not for strangers: they hear that it does not exist."""
        repo = self.repos.get((kind, name))
        if repo is None or (repo.private and not (user and user.belongs_to(repo.namespace))):
            raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, kind: str, name: str, user: User | None) -> Repo:
        repo = self.readable(kind, name, user)
        self.require_write(repo.namespace, user)
        return repo

    @staticmethod
    def require_write(namespace: str, user: User | None) -> None:
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if not user.may_write or not user.belongs_to(namespace):
            raise HubError(403, f"You don't have the rights to write under the namespace {namespace!r}")

    # ------------------------------------------------------------------------------------------------ repositories
    def create(self, kind: str, name: str, private: bool, sdk: str | None) -> Repo:
        """A new repository; as on the Hub its first commit is a `.gitattributes`."""
        if kind == "space" and sdk not in ("gradio", "static", "docker"):
            raise HubError(400, f"Invalid sdk {sdk!r}")
        with self._lock:
            if (kind, name) in self.repos:
                path = self.repos[kind, name].path
                raise HubError(409, f"You already created this {kind} repo: {name}", path=path)
            repo = self.repos[kind, name] = Repo(kind, name, private, sdk)
        files = {".gitattributes": self.keep(ATTRIBUTES, large=False)}
        self._append(repo, "main", None, "initial commit", files)
        return repo

    def apply(self, repo: Repo, branch: str, header: dict[str, Any], operations: list[tuple[str, dict]]) -> Commit:
        """One commit of decoded operations on top of a branch; all of it or nothing."""
        with repo.lock:
            head = repo.commit(branch)
            if branch not in repo.branches:
                raise HubError(400, f"{branch} is no branch")
            if header.get("parentCommit") not in (None, head.oid):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(head.files)
            for key, value in operations:
                self._operate(repo, files, key, value)
            return self._append(repo, branch, head.oid, header["summary"], files)

    def _operate(self, repo: Repo, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if path.startswith("/") or ".." in path.split("/"):
            raise HubError(400, f"Invalid path {path!r}")
        if key == "file":
            if len(value["content"]) > LARGEST_REGULAR:
                raise HubError(413, f"{path}: too large for a regular file")
            files[path] = self.keep(value["content"], large=False)
        elif key == "lfsFile":
            if value["oid"] not in repo.objects:
                raise HubError(400, f"LFS pointer of {path} pointed to a file that does not exist")
            files[path] = self._large(value["oid"])
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "deletedFolder":
            for name in [name for name in files if name.startswith(f"{path.rstrip('/')}/")]:
                del files[name]
        else:
            raise HubError(400, f"Unknown operation {key!r}")

    @staticmethod
    def _append(repo: Repo, branch: str, parent: str | None, title: str, files: dict[str, Blob]) -> Commit:
        identity = repr((repo.kind, repo.name, parent, title, len(repo.commits), sorted(files.items())))
        oid = hashlib.sha1(identity.encode()).hexdigest()
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        commit = repo.commits[oid] = Commit(oid, parent, title, date, files)
        repo.branches[branch] = oid
        return commit

    # ------------------------------------------------------------------------------------------------ contents
    def keep(self, content: bytes, large: bool) -> Blob:
        """Keep a file's content."""
        if large:
            sha256 = hashlib.sha256(content).hexdigest()
            (self.folder / "contents" / sha256).write_bytes(content)
            return self._large(sha256)
        oid = git_oid(content)
        (self.folder / "contents" / oid).write_bytes(content)
        return Blob(oid, len(content))

    def content(self, etag: str) -> Path:
        """Where a content lies, by what `Blob.etag` says."""
        return self.folder / "contents" / etag

    def _large(self, sha256: str) -> Blob:
        size = self.content(sha256).stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return Blob(git_oid(pointer.encode()), size, sha256)


def git_oid(content: bytes) -> str:
    """The hash by which git knows a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether a file goes past git: by its suffix, its size, or since its first bytes are no text."""
    return path.endswith(LARGE) or size > LARGEST_REGULAR or b"\0" in sample


def details(blob: Blob) -> dict[str, Any]:
    """Size and hashes of a file, as listings give them."""
    entry: dict[str, Any] = {"size": blob.size, "oid": blob.oid, "blobId": blob.oid}
    if blob.sha256:
        entry["lfs"] = {"oid": blob.sha256, "sha256": blob.sha256, "size": blob.size, "pointerSize": 134}
    return entry


def listing(files: dict[str, Blob], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """The files and folders below `folder`, or only those directly in it."""
    prefix, entries = f"{folder}/" if folder else "", {}
    for path, blob in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts)):
            inside = prefix + "/".join(parts[:depth])
            if recursive or depth == 1:
                entries[inside] = {"type": "directory", "path": inside, "oid": "0" * 40, "size": 0}
        if recursive or len(parts) == 1:
            entries[path] = {"type": "file", "path": path, **details(blob)}
    return list(entries.values())


def metadata_errors(front: str, kind: str) -> Iterator[str]:
    """What is wrong with a card's metadata, a sentence each."""
    try:
        metadata = yaml.safe_load(front)
    except yaml.YAMLError as error:
        yield f"yaml: {error}"
        return
    if not isinstance(metadata, dict):
        yield "metadata should be an object"
        return
    for name in ("license", "library_name", "pipeline_tag", "sdk", "app_file", "pretty_name"):
        if name in metadata and not isinstance(metadata[name], str):
            yield f'"{name}" must be a string'
    for name in ("tags", "task_categories"):
        if not all(isinstance(tag, str) for tag in metadata.get(name, [])):
            yield f'"{name}" must be an array of strings'
    if kind == "space" and metadata.get("sdk") not in ("gradio", "static", "docker"):
        yield '"sdk" must be one of gradio, static, docker'
    for i, entry in enumerate(metadata.get("model-index", [])):
        for result in entry.get("results", [{}]):
            if not {"task", "dataset", "metrics"} <= result.keys() or "type" not in result["task"]:
                yield f'"model-index[{i}].results" needs task.type, dataset and metrics'
    for i, config in enumerate(metadata.get("configs", [])):
        if not {"config_name", "data_files"} <= config.keys():
            yield f'"configs[{i}]" needs config_name and data_files'
