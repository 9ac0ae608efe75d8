"""A small Hub on a free loopback port: the part of its HTTP API that huggingface_hub, transformers and datasets call.

Clients find it by HF_ENDPOINT, which they read when they are imported: run them in processes of their own, with
`server.environment(folder, token)`. It has no Xet storage, so HF_HUB_DISABLE_XET=1 is part of that. Large files are
handed out by another host name (localhost, not 127.0.0.1), as the Hub's are by its CDN: no token may be sent there.

As a program: `python tests/helpers/hub_server.py --folder DIR --port 8123` serves the accounts of `USERS` until it is
stopped.
"""

import argparse
import base64
import json
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_store import HubError, Repo, Store, User, details, is_large, listing, metadata_errors

USERS = {
    "hf_write_token_of_ana": User("ana", ("lab",)),
    "hf_read_token_of_ana": User("ana", ("lab",), may_write=False),
    "hf_write_token_of_ben": User("ben"),
}
PAGE = 1000  # entries of a tree listing, as on the Hub
KIND = r"(?P<kind>model|dataset|space)s"
REPO = r"(?P<name>[\w.-]+/[\w.-]+)"
ROUTES: list[tuple[str, re.Pattern, str]] = []  # method, address, name of the Handler's method


def route(method: str, address: str) -> Callable:
    """Let a method of `Handler` answer an address."""

    def note(answer: Callable) -> Callable:
        ROUTES.append((method, re.compile(address), answer.__name__))
        return answer

    return note


@dataclass
class Faults:
    """What shall go wrong, and how often. Set them at any time.

    `cut_uploads`: so many uploads lose their connection after `cut_after` bytes. `stall_uploads`: uploads wait there
    for ever and set `stalled`: kill the client then. `before_commit`: called once, with the repository, before a
    commit. `tamper`: contents handed out by etag, instead of the true ones.
    """

    cut_uploads: int = 0
    cut_after: int = 0
    stall_uploads: bool = False
    stalled: threading.Event = field(default_factory=threading.Event)
    before_commit: Callable[[Repo], None] | None = None
    tamper: dict[str, bytes] = field(default_factory=dict)


class HubServer(ThreadingHTTPServer):
    """`requests` lists `"METHOD /path"` in order; `leaks` the addresses outside the Hub to which a token was sent."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path, users: dict[str, User] = USERS, port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.store, self.faults, self.page = Store(folder, users), Faults(), PAGE
        self.requests: list[str] = []
        self.leaks: list[str] = []
        self.signatures: dict[str, tuple[Repo, str]] = {}  # of an upload's address: where it goes, and its hash
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def cdn(self) -> str:
        return f"http://localhost:{self.server_address[1]}/cdn"

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The variables of a client whose caches and login lie in `home`; `token` is its HF_TOKEN."""
        dropped = {"HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE"}
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        variables = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
        return {**kept, **variables, **quiet, **({"HF_TOKEN": token} if token else {})}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # headers and content in one packet: apart, each answer waits 40 ms for an acknowledgement
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self) -> None:
        """Find the method of the address, and turn what it gives or refuses into a response."""
        split = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        self.server.requests.append(f"{self.command} {unquote(split.path)}")
        self._read = False
        try:
            for method, address, name in ROUTES:
                match = address.fullmatch(split.path)
                if match and method == self.command.replace("HEAD", "GET"):
                    # unquoted only now: a quoted slash belongs to the name of a revision
                    words = {key: unquote(word) for key, word in match.groupdict().items() if word is not None}
                    getattr(self, name)(**words)
                    return
            raise HubError(404, f"no such address: {split.path}")
        except HubError as error:
            self.refuse(error)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    # ------------------------------------------------------------------------------------------------ plumbing
    def body(self) -> bytes:
        self._read = True
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def json(self) -> Any:
        return json.loads(self.body() or b"{}")

    def user(self) -> User | None:
        authorization = self.headers.get("Authorization")
        return self.server.store.user(authorization.removeprefix("Bearer ") if authorization else None)

    def repo(self, kind: str, name: str) -> Repo:
        return self.server.store.readable(kind, name, self.user())

    def writable_repo(self, kind: str, name: str) -> Repo:
        return self.server.store.writable(kind, name, self.user())

    def send(self, status: int, content: bytes = b"", **headers: str) -> None:
        if not self._read:  # an unread body would be taken for the next request
            self.body()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, content: Any, status: int = 200, **headers: str) -> None:
        self.send(status, json.dumps(content).encode(), Content_Type="application/json", **headers)

    def refuse(self, error: HubError) -> None:
        headers = {"X_Error_Message": error.message} | ({"X_Error_Code": error.code} if error.code else {})
        body = {"error": error.message} | error.body
        if "path" in body:  # of a repository that exists; clients read its address
            body["url"] = f"{self.server.endpoint}/{body['path']}"
        self.send_json(body, error.status, **headers)

    # ------------------------------------------------------------------------------------------------ accounts
    @route("GET", "/api/whoami-v2")
    def whoami(self) -> None:
        user = self.user()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        role = "write" if user.may_write else "read"
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        organizations = [{"name": name, "type": "org"} for name in user.organizations]
        self.send_json({"type": "user", "name": user.name, "orgs": organizations, "auth": token})

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self) -> None:
        """The checks of a card's metadata that need no list of all licences and languages."""
        request = self.json()
        front = re.match(r"\A---\n(.*?)\n---\n", request["content"], flags=re.S)
        if front is None:
            self.send_json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
            return
        errors = list(metadata_errors(front[1], request["repoType"]))
        self.send_json({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)

    # ------------------------------------------------------------------------------------------------ repositories
    @route("POST", "/api/repos/create")
    def create(self) -> None:
        request, user = self.json(), self.user()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        namespace = request.get("organization") or user.name
        self.server.store.require_write(namespace, user)
        private = request.get("visibility") == "private" or bool(request.get("private"))
        kind, name = request.get("type") or "model", f"{namespace}/{request['name']}"
        repo = self.server.store.create(kind, name, private, request.get("sdk"))
        self.send_json({"url": f"{self.server.endpoint}/{repo.path}", "name": name})

    @route("DELETE", "/api/repos/delete")
    def delete(self) -> None:
        request, user = self.json(), self.user()
        name = f"{request.get('organization') or (user.name if user else '')}/{request['name']}"
        repo = self.writable_repo(request.get("type") or "model", name)
        del self.server.store.repos[repo.kind, repo.name]
        self.send(200)

    @route("PUT", rf"/api/{KIND}/{REPO}/settings")
    def settings(self, kind: str, name: str) -> None:
        repo, request = self.writable_repo(kind, name), self.json()
        repo.private = request.get("visibility", "private" if repo.private else "public") == "private"
        self.send_json({"private": repo.private})

    @route("GET", rf"/api/{KIND}/{REPO}")
    def info(self, kind: str, name: str, revision: str = "main") -> None:
        repo = self.repo(kind, name)
        commit = repo.commit(revision)
        files = [{"rfilename": path} | details(blob) for path, blob in sorted(commit.files.items())]
        info = {"_id": name, "id": name, "sha": commit.oid, "private": repo.private, "gated": False, "disabled": False}
        info |= {"author": repo.namespace, "lastModified": commit.date, "createdAt": commit.date, "tags": []}
        info |= {"downloads": 0, "likes": 0, "siblings": files, "sdk": repo.sdk, "modelId": name}
        self.send_json(info)

    @route("GET", rf"/api/{KIND}/{REPO}/revision/(?P<revision>.+)")
    def revision(self, kind: str, name: str, revision: str) -> None:
        self.info(kind, name, revision)

    # ------------------------------------------------------------------------------------------------ refs
    @route("GET", rf"/api/{KIND}/{REPO}/refs")
    def refs(self, kind: str, name: str) -> None:
        repo = self.repo(kind, name)
        groups: dict[str, Any] = {"converts": [], "pullRequests": []}
        for group, folder, refs in (("branches", "heads", repo.branches), ("tags", "tags", repo.tags)):
            groups[group] = [
                {"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": oid} for name, oid in refs.items()
            ]
        self.send_json(groups)

    @route("POST", rf"/api/{KIND}/{REPO}/branch/(?P<branch>[^/]+)")
    def create_branch(self, kind: str, name: str, branch: str) -> None:
        repo = self.writable_repo(kind, name)
        start = self.json().get("startingPoint") or "main"
        self._name(repo.branches, branch, repo.commit(start).oid)

    @route("POST", rf"/api/{KIND}/{REPO}/tag/(?P<revision>[^/]+)")
    def create_tag(self, kind: str, name: str, revision: str) -> None:
        repo = self.writable_repo(kind, name)
        self._name(repo.tags, self.json()["tag"], repo.commit(revision).oid)

    def _name(self, refs: dict[str, str], name: str, oid: str) -> None:
        if name in refs:
            raise HubError(409, f"Reference {name} already exists")
        refs[name] = oid
        self.send(201)

    @route("DELETE", rf"/api/{KIND}/{REPO}/(?P<group>branch|tag)/(?P<ref>[^/]+)")
    def delete_ref(self, kind: str, name: str, group: str, ref: str) -> None:
        repo = self.writable_repo(kind, name)
        refs = repo.branches if group == "branch" else repo.tags
        if ref == "main" or refs.pop(ref, None) is None:
            raise HubError(404, f"Reference {ref} cannot be deleted", "RevisionNotFound")
        self.send(200)

    @route("GET", rf"/api/{KIND}/{REPO}/commits/(?P<revision>[^/]+)")
    def commits(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name)
        entries, commit = [], repo.commit(revision)
        while commit is not None:
            entry = {"id": commit.oid, "title": commit.title, "message": "", "date": commit.date}
            entries.append(entry | {"authors": [{"user": repo.namespace}]})
            commit = repo.commits.get(commit.parent or "")  # type: ignore[assignment]
        self.send_json(entries)

    # ------------------------------------------------------------------------------------------------ reading
    @route("GET", rf"/api/{KIND}/{REPO}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?")
    def tree(self, kind: str, name: str, revision: str, path: str = "") -> None:
        files = self.repo(kind, name).commit(revision).files
        recursive = self.query.get("recursive", "false").lower() in ("true", "1")
        entries = listing(files, path.strip("/"), recursive)
        if path and not entries:
            raise HubError(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
        first = int(self.query.get("cursor", 0))
        headers = {}
        if first + self.server.page < len(entries):
            query = f"recursive={recursive}&cursor={first + self.server.page}"
            address = f"{self.server.endpoint}{urlsplit(self.path).path}?{query}"
            headers["Link"] = f'<{address}>; rel="next"'
        self.send_json(entries[first : first + self.server.page], **headers)

    @route("POST", rf"/api/{KIND}/{REPO}/paths-info/(?P<revision>[^/]+)")
    def paths_info(self, kind: str, name: str, revision: str) -> None:
        files = self.repo(kind, name).commit(revision).files
        body = self.body().decode()
        is_json = "json" in self.headers.get("Content-Type", "")
        paths = json.loads(body)["paths"] if is_json else parse_qs(body).get("paths", [])
        entries = {entry["path"]: entry for entry in listing(files, "", recursive=True)}
        self.send_json([entries[path] for path in paths if path in entries])

    @route("GET", rf"/((?P<kind>dataset|space)s/)?{REPO}/(resolve|raw)/(?P<revision>[^/]+)/(?P<path>.+)")
    def resolve(self, name: str, revision: str, path: str, kind: str = "model") -> None:
        repo = self.repo(kind, name)
        blob = repo.file(revision, path)
        headers = {"X_Repo_Commit": repo.commit(revision).oid, "Accept_Ranges": "bytes"}
        if blob.sha256 is None:
            self.hand_out(blob.etag, ETag=f'"{blob.oid}"', **headers)
            return
        headers |= {"X_Linked_Etag": f'"{blob.sha256}"', "X_Linked_Size": str(blob.size), "ETag": f'"{blob.oid}"'}
        self.send(302, Location=f"{self.server.cdn}/{blob.sha256}", **headers)

    @route("GET", "/cdn/(?P<sha256>[0-9a-f]{64})")
    def cdn(self, sha256: str) -> None:
        if "Authorization" in self.headers:
            self.server.leaks.append(self.path)
        self.hand_out(sha256, ETag=f'"{sha256}"', Accept_Ranges="bytes")

    def hand_out(self, etag: str, **headers: str) -> None:
        """A content, or the part of it that `Range` names."""
        content = self.server.faults.tamper.get(etag) or self.server.store.content(etag).read_bytes()
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            self.send(200, content, **headers)
            return
        first = int(wanted[1]) if wanted[1] else max(0, len(content) - int(wanted[2]))
        last = min(int(wanted[2]), len(content) - 1) if wanted[1] and wanted[2] else len(content) - 1
        if first > last:
            self.send(416, Content_Range=f"bytes */{len(content)}")
            return
        content_range = f"bytes {first}-{last}/{len(content)}"
        self.send(206, content[first : last + 1], Content_Range=content_range, **headers)

    # ------------------------------------------------------------------------------------------------ writing
    @route("POST", rf"/api/{KIND}/{REPO}/preupload/(?P<revision>[^/]+)")
    def preupload(self, kind: str, name: str, revision: str) -> None:
        files, entries = self.writable_repo(kind, name).commit(revision).files, []
        for file in self.json()["files"]:
            path = file["path"]
            large = is_large(path, file["size"], base64.b64decode(file["sample"]))
            there = files.get(path)
            entry = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            entries.append(entry | ({"oid": there.etag} if there else {}))
        self.send_json({"files": entries})

    @route("POST", rf"/((?P<kind>dataset|space)s/)?{REPO}\.git/info/lfs/objects/batch")
    def batch(self, name: str, kind: str = "model") -> None:
        """Where each large file is to be put; no address for those that are here."""
        repo, entries = self.writable_repo(kind, name), []
        for entry in self.json()["objects"]:
            if entry["oid"] not in repo.objects:
                signature = secrets.token_hex(8)
                self.server.signatures[signature] = repo, entry["oid"]
                upload = {"href": f"{self.server.cdn}/{entry['oid']}?signature={signature}"}
                verify = {"href": f"{self.server.endpoint}/{repo.path}.git/info/lfs/verify"}
                entry = entry | {"actions": {"upload": upload, "verify": verify}}
            entries.append(entry)
        self.send_json({"transfer": "basic", "objects": entries})

    @route("PUT", "/cdn/(?P<sha256>[0-9a-f]{64})")
    def put(self, sha256: str) -> None:
        """A large file arrives, if nothing goes wrong."""
        if "Authorization" in self.headers:
            self.server.leaks.append(self.path)
        signed = self.server.signatures.get(self.query.get("signature", ""))
        if signed is None or signed[1] != sha256:
            raise HubError(403, "Signature does not match")
        faults = self.server.faults
        if faults.stall_uploads or faults.cut_uploads > 0:
            faults.cut_uploads -= 1
            self.rfile.read(min(faults.cut_after, int(self.headers.get("Content-Length") or faults.cut_after)))
            if faults.stall_uploads:
                faults.stalled.set()
                threading.Event().wait()  # this thread is a daemon
            self.close_connection = True
            self.connection.close()
            return
        content = self.body() if "Content-Length" in self.headers else self._chunks()
        blob = self.server.store.keep(content, large=True)
        if blob.sha256 != sha256:
            raise HubError(400, "The content does not match its hash")
        signed[0].objects.add(sha256)
        self.send(200)

    def _chunks(self) -> bytes:
        """The body of a request with `Transfer-Encoding: chunked`."""
        self._read, content = True, b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    @route("POST", rf"/((?P<kind>dataset|space)s/)?{REPO}\.git/info/lfs/verify")
    def verify(self, name: str, kind: str = "model") -> None:
        request, repo = self.json(), self.writable_repo(kind, name)
        oid = request["oid"]
        if oid not in repo.objects or self.server.store.content(oid).stat().st_size != request["size"]:
            raise HubError(404, "Object not found")
        self.send_json({"message": "Object verified"})

    @route("POST", rf"/api/{KIND}/{REPO}/commit/(?P<branch>[^/]+)")
    def commit(self, kind: str, name: str, branch: str) -> None:
        repo = self.writable_repo(kind, name)
        lines = [json.loads(line) for line in self.body().splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        operations = [(line["key"], dict(line["value"])) for line in lines if line["key"] != "header"]
        for key, value in operations:
            if key == "file":
                value["content"] = base64.b64decode(value["content"])
        if interfere := self.server.faults.before_commit:
            self.server.faults.before_commit = None
            interfere(repo)
        commit = self.server.store.apply(repo, branch, header, operations)
        address = f"{self.server.endpoint}/{repo.path}/commit/{commit.oid}"
        self.send_json({"success": True, "commitOid": commit.oid, "commitUrl": address, "hookOutput": ""})


def main() -> None:
    """Serve until stopped; prints the endpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where contents are kept (default: a temporary folder)")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    args = parser.parse_args()
    server = HubServer(args.folder or Path(tempfile.mkdtemp()), port=args.port)
    print(server.endpoint, flush=True)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        server.shutdown()


if __name__ == "__main__":
    main()
