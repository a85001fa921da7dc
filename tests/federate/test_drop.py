"""The drop folder: a refresh whose files go through a web server, over TLS, and never to a site."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rwe.config import ConfigError
from rwe.errors import EvidenceError, UsageError
from rwe.federate import drop, hub, site
from rwe.federate.result import FederatedResult
from rwe.identity import SignatureError
from tests.contract.tls import make_authority
from tests.federate.hospitals import THREE, Hospitals, approve_everywhere

TOKEN = "a-token-of-the-drop-folder"


class Server:
    """Keeps what is PUT, gives it to GET; both with the token only."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.authority = make_authority(folder)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                if self._may():
                    outer.files[self.path] = content
                    self._answer(201, b"")

            def do_GET(self) -> None:
                if self._may():
                    found = outer.files.get(self.path)
                    self._answer(404 if found is None else 200, found or b"")

            def _may(self) -> bool:
                outer.requests.append(f"{self.command} {self.path}")
                if self.headers["Authorization"] == f"Bearer {TOKEN}":
                    return True
                self._answer(401, b"")
                return False

            def _answer(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = self.authority.server_context().wrap_socket(
            self._server.socket, server_side=True
        )
        self.url = f"https://127.0.0.1:{self._server.server_port}/drop"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "tls").mkdir()
    started = Server(tmp_path / "tls")
    yield started
    started.close()


def with_drop(made: Hospitals, server: Server, folder: Path, token: str = TOKEN) -> None:
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(token)
    drop_settings = f'{{url: "{server.url}", token_file: "{path}", ca_file: "{server.authority.ca}"}}'
    for name in ("hub", *THREE):
        made.settings(name, drop=drop_settings)


def test_a_refresh_through_the_drop_folder(hospitals: Hospitals, server: Server, tmp_path: Path) -> None:
    made = hospitals
    with_drop(made, server, tmp_path)
    approve_everywhere(made, THREE)
    boxes = {name: tmp_path / name for name in ("hub", *THREE)}
    for box in boxes.values():
        box.mkdir()
    at_hub = made.workspace("hub")
    assert drop.fetch(made.workspace("siteA"), "three_sites", boxes["siteA"]) == ()
    asked = hub.init(at_hub, made.study(), THREE, boxes["hub"])
    while True:
        drop.send(at_hub, asked.path)
        for name in THREE:
            workspace = made.workspace(name)
            (request,) = drop.fetch(workspace, "three_sites", boxes[name])
            drop.send(workspace, site.answer(workspace, request, boxes[name]).path)
        assert len(drop.fetch(at_hub, "three_sites", boxes["hub"])) == 3
        found = hub.combine(at_hub, asked.refresh, boxes["hub"], boxes["hub"])
        if isinstance(found, FederatedResult):
            break
        asked = found
    assert found.coefficients[0].estimate == pytest.approx(-0.3755198379408, abs=1e-6)
    assert len(server.files) == 1 + 3 * found.steps
    name = re.compile(r"/drop/three_sites\.(request|answer\.[0-9a-f]{16}\.\d+\.[0-9a-f]{16})\.json")
    assert all(name.fullmatch(path) for path in server.files)


def test_only_documents_of_the_workspace_itself_are_sent(
    hospitals: Hospitals, server: Server, tmp_path: Path, post: Path
) -> None:
    made = hospitals
    with_drop(made, server, tmp_path)
    approve_everywhere(made, THREE)
    asked = hub.init(made.workspace("hub"), made.study(), THREE, post)
    given = site.answer(made.workspace("siteA"), asked.path, post)
    for sender, path in (("siteA", asked.path), ("siteB", given.path)):
        with pytest.raises(SignatureError):
            drop.send(made.workspace(sender), path)
    other = post / "key"
    other.write_text("secret")
    with pytest.raises(UsageError, match="no request of a hub"):
        drop.send(made.workspace("siteA"), other)
    assert server.requests == []


def test_a_folder_that_refuses_or_is_not_there_is_said_without_the_token(
    hospitals: Hospitals, server: Server, tmp_path: Path, post: Path
) -> None:
    made = hospitals
    with_drop(made, server, tmp_path, token="wrong-token-of-nobody")
    asked = hub.init(made.workspace("hub"), made.study(), THREE, post)
    with pytest.raises(EvidenceError, match="status 401") as caught:
        drop.send(made.workspace("hub"), asked.path)
    assert "wrong-token" not in str(caught.value)
    server.close()
    with pytest.raises(EvidenceError, match="carry the files by hand") as caught:
        drop.fetch(made.workspace("siteA"), "three_sites", post)
    assert "127.0.0.1" not in str(caught.value)


def test_a_drop_folder_is_https_and_named_in_the_settings(hospitals: Hospitals, post: Path) -> None:
    hospitals.settings("siteA", drop="{url: 'http://drop.example.org/a'}")
    with pytest.raises(ConfigError, match=r"federation\.drop\.url"):
        hospitals.workspace("siteA")
    hospitals.settings("siteA")
    with pytest.raises(ConfigError, match="there is no drop folder"):
        drop.fetch(hospitals.workspace("siteA"), "three_sites", post)
