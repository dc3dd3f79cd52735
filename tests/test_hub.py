"""What the hub says, in one line each: a local server answers as the hub does."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT

PROBE = """
import sys
from lab import checkpoints, runs
for wanted in sys.argv[1:]:
    name, _, revision = wanted.partition("@")
    try:
        checkpoints.find_model(name, revision or None)
    except runs.UserError as error:
        print(error)
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """`someone/gated` lists its files and hands out none; `someone/private` and unknown names look alike, as on the hub."""

    def answer(self) -> None:
        if "someone/gated" in self.path and "/api/" in self.path:
            names = ("config.json", "model.safetensors")
            body = {
                "id": "someone/gated",
                "sha": COMMIT,
                "siblings": [{"rfilename": name} for name in names],
                "tags": [],
            }
            if "/tree/" in self.path:
                body = [{"type": "file", "path": name, "size": 9, "oid": COMMIT} for name in names]
            return self.send(200, None, body)
        if "someone/gated" in self.path:
            return self.send(403, "GatedRepo", {"error": "Access to model someone/gated is restricted."})
        if "someone/open" in self.path:
            return self.send(404, "RevisionNotFound", {"error": "Invalid rev id: no-such"})
        if "someone/broken" in self.path:
            return self.send(500, None, {"error": "Internal Error"})
        return self.send(401, "RepoNotFound", {"error": "Invalid username or password."})

    do_GET = do_HEAD = answer

    def send(self, status: int, code: str | None, body: dict | list) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        content = json.dumps(body).encode()
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


def said(tmp_path, *models: str, **environment: str) -> list[str]:
    settings = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"} | environment
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        if name not in environment:
            settings.pop(name, None)
    result = subprocess.run(
        [sys.executable, "-c", PROBE, *models], cwd=ROOT, env=settings, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.slow
def test_gated_unknown_and_revision_are_told_apart(hub, tmp_path):
    models = ("someone/gated", "someone/private", "someone/open@no-such", "someone/broken", "a..b/c--d")
    gated, unknown, revision, broken, impossible = said(tmp_path, *models, HF_ENDPOINT=hub)
    assert "--model someone/gated is gated: accept its terms" in gated and "set HF_TOKEN" in gated
    assert "someone/private is not on the hub: check the name; if it is private, set HF_TOKEN" in unknown
    assert "someone/open at no-such is not on the hub: the model is, but has no such branch" in revision
    assert "someone/broken could not be had from the hub" in broken
    assert "is no name that the hub could have" in impossible


@pytest.mark.slow
def test_no_network_and_offline_name_the_cache(tmp_path):
    (unreachable,) = said(tmp_path, "someone/open", HF_ENDPOINT="http://127.0.0.1:9")
    assert "someone/open could not be had from the hub" in unreachable
    assert "check the network" in unreachable and "HF_HOME chooses it" in unreachable
    (offline,) = said(tmp_path, "someone/open", HF_HUB_OFFLINE="1")
    assert "someone/open was not looked up, since HF_HUB_OFFLINE is set" in offline
    assert str(tmp_path / "home") in offline
