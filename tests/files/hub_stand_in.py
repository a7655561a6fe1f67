"""A local server that stands in for the Hugging Face hub, with the part of its API that pushing and fetching need."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories in memory, and a log of requests."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[str] = []
        self.url = ""

    def commit(self, repo: str) -> str:
        """Commit hash of the present state of a repository."""
        content = sorted((name, hashlib.sha1(b).hexdigest()) for name, b in self.repos[repo].items())
        return hashlib.sha1(json.dumps(content).encode()).hexdigest()


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            return

        def answer(self, content: Any, status: int = 200, **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", headers.pop("Content_Length", str(len(body))))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def missing(self, code: str) -> None:
            self.answer({"error": "not found"}, 404, X_Error_Code=code, X_Error_Message=code)

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            if told := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(tree|revision)/(.+))?", path):
                repo, what = told[1], told[2]
                if repo not in hub.repos:
                    return self.missing("RepoNotFound")
                files = hub.repos[repo]
                if what == "tree":
                    return self.answer([
                        {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                        for n, b in files.items()
                    ])  # fmt: skip
                siblings = [{"rfilename": n} for n in files]
                return self.answer({"id": repo, "sha": hub.commit(repo), "siblings": siblings})
            if told := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                repo, name = told[1], told[3]
                if repo not in hub.repos or name not in hub.repos[repo]:
                    return self.missing("EntryNotFound" if repo in hub.repos else "RepoNotFound")
                content = hub.repos[repo][name]
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                return self.answer(content, ETag=etag, X_Repo_Commit=hub.commit(repo), Accept_Ranges="bytes")
            return self.missing("EntryNotFound")

        do_HEAD = do_GET

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.requests.append(f"POST {path}")
            if path == "/api/repos/create":
                told = json.loads(body)
                repo = "/".join(filter(None, [told.get("organization"), told["name"]]))
                repo = repo if "/" in repo else f"someone/{repo}"
                hub.repos.setdefault(repo, {})
                hub.private[repo] = bool(told.get("private") or told.get("visibility") == "private")
                return self.answer({"url": f"{hub.url}/{repo}", "name": repo, "id": "0"})
            if path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if told := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
                files = [f["path"] for f in json.loads(body)["files"]]
                return self.answer(
                    {"files": [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]}
                )
            if told := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
                repo = told[1]
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        hub.repos[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    if line["key"] == "deletedFile":
                        del hub.repos[repo][line["value"]["path"]]
                sha = hub.commit(repo)
                url = f"{hub.url}/{repo}/commit/{sha}"
                return self.answer({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})
            return self.missing("EntryNotFound")

    return Handler


@contextmanager
def stand_in() -> Generator[Hub]:
    """Runs a hub in threads of this process."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def with_hub(hub: Hub, cache: Path, code: str) -> list[Any]:
    """The JSON lines that a program prints in a process that uses the stand-in as its hub."""
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_nothing", "HF_HOME": str(cache),
           "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # fmt: skip
    start = "import json, sae, torch\nfrom pathlib import Path\n"
    ran = subprocess.run([sys.executable, "-c", start + code], env=env, capture_output=True, text=True,
                         cwd=Path(__file__).parents[2])  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]
