"""A server of the kind of the Hugging Face Hub, in this process: it answers the calls that huggingface_hub makes.

It keeps commits in memory. Files other than texts are uploaded as large files, by the protocol of Git LFS.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"
TEXTS = (".md", ".json")


class HubServer(ThreadingHTTPServer):
    """The server.

    Attributes:
        commits: By repository: the revision and the files of each commit, the newest last.
        private: By repository: whether it was asked to be private.
        messages: Of all commits.
        unknown: Calls that it has no answer for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: dict[str, Any] = {}
        self.messages: list[str] = []
        self.large: dict[str, bytes] = {}
        self.unknown: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes] | None:
        """The files of a revision."""
        found = self.commits.get(repo, [])
        if revision == "main":
            return found[-1][1] if found else {} if repo in self.commits else None
        return next((files for name, files in found if name == revision), None)

    def revision(self, repo: str) -> str:
        return self.commits[repo][-1][0] if self.commits[repo] else "0" * 40

    def commit(self, repo: str, changes: dict[str, bytes]) -> str:
        """Adds a commit, as another program might."""
        files = {**(self.files(repo) or {}), **changes}
        revision = hashlib.sha1(repr((len(self.commits[repo]), sorted(files.items()))).encode()).hexdigest()
        self.commits[repo].append((revision, files))
        return revision


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.answer({"error": code}, status, {"X-Error-Code": code, "X-Error-Message": code})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self) -> None:
        path, data = unquote(urlsplit(self.path).path), self.body()
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if not self.authorized():
            return self.refuse(401, "Unauthorized")
        if path == "/api/repos/create":
            given = json.loads(data)
            repo = "/".join(filter(None, [given.get("organization") or "me", given["name"]]))
            if repo in self.server.commits:
                return self.answer({"error": "exists", "url": f"{self.server.endpoint}/{repo}"}, 409)
            self.server.commits[repo], self.server.private[repo] = [], given.get("private", given.get("visibility"))
            return self.answer({"url": f"{self.server.endpoint}/{repo}"})
        if path.endswith(".git/info/lfs/objects/batch"):
            wanted = json.loads(data)["objects"]
            upload = [{"href": f"{self.server.endpoint}/large/{one['oid']}"} for one in wanted]
            objects = [{**one, "actions": {"upload": link}} for one, link in zip(wanted, upload, strict=True)]
            return self.answer({"transfer": "basic", "objects": objects})
        repo, _, action = path.removeprefix("/api/models/").partition("/preupload/")
        if action:
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "regular" if one["path"].endswith(TEXTS) else "lfs",
                    "shouldIgnore": False,
                }
                for one in json.loads(data)["files"]
            ]
            return self.answer({"files": modes})
        repo, _, action = path.removeprefix("/api/models/").partition("/commit/")
        if action:
            return self.take(repo, [json.loads(line) for line in data.splitlines() if line])
        return self.refuse_unknown()

    def take(self, repo: str, lines: list[Any]) -> None:
        changes = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changes[value["path"]] = self.server.large[value["oid"]]
        revision = self.server.commit(repo, changes)
        url = f"{self.server.endpoint}/{repo}/commit/{revision}"
        self.answer({"success": True, "commitOid": revision, "commitUrl": url})

    def do_PUT(self) -> None:
        data = self.body()
        self.server.large[hashlib.sha256(data).hexdigest()] = data
        self.answer({})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            repo, _, rest = path.removeprefix("/api/models/").partition("/tree/")
            if rest:
                return self.tree(repo, rest.split("/")[0])
            repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            return self.info(repo, revision or "main")
        repo, _, rest = path[1:].partition("/resolve/")
        revision, _, name = rest.partition("/")
        files = self.server.files(repo, revision)
        if files is None:
            return self.refuse(404, "RepoNotFound")
        if name not in files:
            return self.refuse(404, "EntryNotFound")
        revision = self.server.revision(repo) if revision == "main" else revision
        tag = hashlib.sha256(files[name]).hexdigest()
        return self.answer(files[name], headers={"ETag": f'"{tag}"', "X-Repo-Commit": revision})

    do_HEAD = do_GET

    def info(self, repo: str, revision: str) -> None:
        files = self.server.files(repo, revision)
        if files is None:
            return self.refuse(404, "RevisionNotFound" if repo in self.server.commits else "RepoNotFound")
        sha = self.server.revision(repo) if revision == "main" else revision
        return self.answer({"id": repo, "sha": sha, "siblings": [{"rfilename": name} for name in files]})

    def tree(self, repo: str, revision: str) -> None:
        files = self.server.files(repo, revision) or {}
        found = []
        for name, data in files.items():
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data)}
            entry["oid"] = hashlib.sha1(data).hexdigest()
            if not name.endswith(TEXTS):
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            found.append(entry)
        self.answer(found)

    def refuse_unknown(self) -> None:
        self.server.unknown.append(f"{self.command} {self.path}")
        self.refuse(404, "Unknown")


@contextlib.contextmanager
def serving() -> Iterator[HubServer]:
    """Runs a server while the block runs."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
