"""A drop folder: a web server that keeps files, which hub and sites put there and fetch. Nobody calls a site.

    URL/STUDY.request.json                         the hub's newest request
    URL/STUDY.answer.REFRESH.STEP.SITE.json        REFRESH and SITE as hashes

Any server that takes PUT and GET with a bearer token will do. It is trusted with nothing: requests and
answers are signed, masked and bound to each other as those that are carried by hand.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import requests

from rwe import __version__
from rwe.config import Workspace
from rwe.errors import ConfigError, EvidenceError, UsageError
from rwe.federate import hub
from rwe.federate.documents import (
    MOST_BYTES,
    Request,
    SignedAnswer,
    read_answer,
    read_request,
    verify_answer,
    verify_request,
)
from rwe.fhir.secrets import read_secret
from rwe.identity import PublicIdentity, read_identity

_SECONDS = 60
_WHERE = "federation.drop"


@dataclass(frozen=True)
class DropFolder:
    """The drop folder of a workspace. Build it with `open_drop`."""

    url: str
    session: requests.Session

    def put(self, name: str, content: bytes) -> None:
        """Keep a file under a name. Raises EvidenceError where the server does not take it."""
        try:
            response = self.session.put(
                f"{self.url}/{name}", data=content, timeout=_SECONDS, allow_redirects=False
            )
        except requests.RequestException as e:
            raise _unreachable(type(e).__name__) from None
        if response.status_code not in {200, 201, 204}:
            raise _unreachable(f"status {response.status_code}")

    def get(self, name: str) -> bytes | None:
        """The content of a file; None where there is none. Raises EvidenceError as `put`."""
        try:
            with self.session.get(
                f"{self.url}/{name}", timeout=_SECONDS, allow_redirects=False, stream=True
            ) as response:
                if response.status_code == 404:
                    return None
                if response.status_code != 200:
                    raise _unreachable(f"status {response.status_code}")
                content = b""
                for piece in response.iter_content(1 << 16):
                    content += piece
                    if len(content) > MOST_BYTES:
                        raise EvidenceError("a file is larger than any request", where=_WHERE)
                return content
        except requests.RequestException as e:
            raise _unreachable(type(e).__name__) from None


def _unreachable(why: str) -> EvidenceError:
    return EvidenceError(
        f"the drop folder does not work ({why})",
        where=_WHERE,
        advice="check its address and token, or carry the files by hand",
    )


def open_drop(workspace: Workspace) -> DropFolder:
    """The drop folder that the settings name. Raises ConfigError without one, or without its token."""
    settings = workspace.settings.federation.drop
    if settings is None:
        raise ConfigError(
            "there is no drop folder", where=_WHERE, advice="name its url in rwe.yaml, or carry files by hand"
        )
    session = requests.Session()
    session.trust_env = False
    session.headers["User-Agent"] = f"rwe/{__version__}"
    session.verify = str(settings.ca_file) if settings.ca_file else True
    if settings.token_file or settings.token_env:
        token = read_secret(_WHERE, file=settings.token_file, variable=settings.token_env)
        session.headers["Authorization"] = f"Bearer {token}"
    return DropFolder(settings.url.rstrip("/"), session)


def send(workspace: Workspace, file: Path) -> str:
    """Put a request of this hub or an answer of this site into the drop folder; returns the name there.

    Raises UsageError where the file is neither, or not signed by this workspace; EvidenceError where the
    folder does not take it.
    """
    own = read_identity(workspace).public
    try:
        answer = read_answer(file)
    except UsageError:
        request = read_request(file)
        verify_request(request, own, file.name)
        name = _request_name(request.document.study)
    else:
        name = _name_of_own(answer, own, file.name)
    open_drop(workspace).put(name, file.read_bytes())
    return name


def fetch(workspace: Workspace, study: str, to: Path) -> tuple[Path, ...]:
    """Get what is there for this workspace: the hub's request, or the sites' answers to its own newest one.

    Nothing is believed yet: `answer` and `combine` verify. `study` is a study of this workspace. Raises
    EvidenceError where the folder does not work.
    """
    if not to.is_dir():
        raise UsageError("there is no such folder", where=str(to), advice="make it first")
    drop = open_drop(workspace)
    asked = [
        request for _, request, ended in hub.refreshes(workspace) if request.study == study and not ended
    ]
    names = _answer_names(asked[-1]) if asked else [_request_name(study)]
    found = []
    for name in names:
        content = drop.get(name)
        if content is not None:
            path = to / name
            path.write_bytes(content)
            path.chmod(0o600)
            found.append(path)
    return tuple(found)


def _request_name(study: str) -> str:
    return f"{study}.request.json"


def _answer_names(request: Request) -> list[str]:
    return [_answer_name(request.study, request.refresh, request.step, s.public()) for s in request.sites]


def _name_of_own(answer: SignedAnswer, own: PublicIdentity, where: str) -> str:
    verify_answer(answer, own, where)
    a = answer.document
    return _answer_name(a.study, a.refresh, a.step, own)


def _answer_name(study: str, refresh: str, step: int, site: PublicIdentity) -> str:
    short = hashlib.sha256(refresh.encode()).hexdigest()[:16]
    return f"{study}.answer.{short}.{step}.{hashlib.sha256(site.ed25519).hexdigest()[:16]}.json"
