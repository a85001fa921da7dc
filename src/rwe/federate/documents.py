"""Requests and answers: readable JSON, strict, signed over one canonical form.

Every field has a type and bounds, and none is ever used as a path, as SQL or as code: names are looked up
among those the site knows. A document is signed over `rwe federate KIND`, a zero byte and its canonical form
(keys sorted, no blanks, ASCII), so that no document passes for one of another kind. The file itself is
indented, to be read before it leaves.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rwe.durable import write_whole
from rwe.errors import EvidenceError, UsageError
from rwe.identity import Identity, PublicIdentity

MOST_BYTES = 20_000_000
MOST_SITES = 500

SiteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
StudyName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
RefreshId = Annotated[str, Field(pattern=r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{16}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Masked = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Instant = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
SumName = Annotated[str, Field(pattern=r"^[a-z0-9_,.\[\]]{1,200}$")]
Mode = Literal["masked", "plain"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SiteKeys(_Document):
    """A site that is asked, and its public keys as the hub pinned them."""

    name: SiteName
    ed25519: Key
    x25519: Key

    def public(self) -> PublicIdentity:
        """The keys themselves."""
        return PublicIdentity(bytes.fromhex(self.ed25519), bytes.fromhex(self.x25519))


class Answer(_Document):
    """A site's numbers for one request, by name: masked integers of 32 hex digits, or plain numbers.

    `counts` says how the counts among them were rounded at the site.
    """

    format: Literal["rwe federated answer 1"] = "rwe federated answer 1"
    study: StudyName
    protocol_sha256: Sha256
    refresh: RefreshId
    step: Annotated[int, Field(ge=0, le=1000)]
    request_sha256: Sha256
    site: SiteName
    mode: Mode
    counts: Literal["midpoint_6", "exact"]
    masked: Annotated[dict[SumName, Masked], Field(max_length=20_000)]
    plain: Annotated[dict[SumName, float], Field(max_length=20_000)]


class SignedAnswer(_Document):
    """An answer with its site's signature."""

    document: Answer
    signature: Signature


class StepBefore(_Document):
    """The step before: its request's hash and the signed answers of all sites to it."""

    request_sha256: Sha256
    answers: Annotated[tuple[SignedAnswer, ...], Field(min_length=1, max_length=MOST_SITES)]


class Request(_Document):
    """What a hub asks all sites for, in one step of one refresh.

    `analysis` is the place of the analysis in the protocol, `plan_sha256` what the hub makes of it: a site
    derives its own plan from its own study file and compares. `beta` is in the units of the covariates.
    """

    format: Literal["rwe federated request 1"] = "rwe federated request 1"
    study: StudyName
    protocol_sha256: Sha256
    analysis: Annotated[int, Field(ge=0, le=1000)]
    landmark_day: Annotated[int, Field(ge=0, le=100_000)] | None
    plan_sha256: Sha256
    refresh: RefreshId
    step: Annotated[int, Field(ge=0, le=1000)]
    mode: Mode
    sites: Annotated[tuple[SiteKeys, ...], Field(min_length=1, max_length=MOST_SITES)]
    beta: Annotated[tuple[float, ...], Field(min_length=1, max_length=200)]
    nonce: Nonce
    created_at: Instant
    expires_at: Instant
    before: StepBefore | None

    @property
    def file_name(self) -> str:
        """What the file of this request is called."""
        return f"{self.study}.{self.refresh}.request.{self.step}.json"


class SignedRequest(_Document):
    """A request with the hub's signature."""

    document: Request
    signature: Signature


def canonical(document: BaseModel) -> bytes:
    """The one form of a document: what is signed and hashed."""
    content = document.model_dump(mode="json")
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def sha256_of(document: BaseModel) -> str:
    """The hash of the canonical form."""
    return hashlib.sha256(canonical(document)).hexdigest()


def _message(kind: str, document: BaseModel) -> bytes:
    return f"rwe federate {kind}".encode("ascii") + b"\0" + canonical(document)


def sign_request(request: Request, identity: Identity) -> SignedRequest:
    """The request with this identity's signature."""
    return SignedRequest(document=request, signature=identity.sign(_message("request", request)).hex())


def sign_answer(answer: Answer, identity: Identity) -> SignedAnswer:
    """The answer with this identity's signature."""
    return SignedAnswer(document=answer, signature=identity.sign(_message("answer", answer)).hex())


def verify_request(signed: SignedRequest, hub: PublicIdentity, where: str) -> None:
    """Raises SignatureError where the request is not signed with the pinned key of the hub."""
    hub.verify(_message("request", signed.document), bytes.fromhex(signed.signature), where=where)


def verify_answer(signed: SignedAnswer, site: PublicIdentity, where: str) -> None:
    """Raises SignatureError where the answer is not signed with the key of its site."""
    site.verify(_message("answer", signed.document), bytes.fromhex(signed.signature), where=where)


def read_request(path: Path) -> SignedRequest:
    """A request from its file, not yet verified. Raises UsageError where it is none."""
    return _read(path, SignedRequest, "request of a hub")


def read_answer(path: Path) -> SignedAnswer:
    """An answer from its file, not yet verified. Raises UsageError where it is none."""
    return _read(path, SignedAnswer, "answer of a site")


def is_about(path: Path, refresh: str, step: int) -> bool:
    """Whether a file is an answer to this step of this refresh, by what it says; False for any other file."""
    try:
        found = read_answer(path).document
    except UsageError:
        return False
    return (found.refresh, found.step) == (refresh, step)


_D = TypeVar("_D", bound=BaseModel)


def _read(path: Path, kind: type[_D], what: str) -> _D:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"the file is larger than any {what}", where=path.name)
        content = path.read_bytes()
    except OSError:
        raise UsageError("the file cannot be read", where=path.name, advice="check its path") from None
    try:
        return kind.model_validate_json(content, strict=True)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(p) for p in first["loc"] if p != "[key]")[:80]
        place = f" (field {field})" if field and field.isprintable() else ""
        raise UsageError(
            f"it is no {what} that this rwe reads{place}", where=path.name, advice="ask for the file again"
        ) from None


def write_document(document: BaseModel, path: Path) -> None:
    """Write a document to be read by people, mode 0600, in one step. Raises EvidenceError where it cannot."""
    content = json.dumps(document.model_dump(mode="json"), indent=1, allow_nan=False).encode("ascii") + b"\n"
    try:
        write_whole(path, content)
    except OSError:
        raise EvidenceError(
            "the file cannot be written", where=str(path), advice="check the folder and the disk"
        ) from None


def private_folder(root: Path, *parts: str) -> Path:
    """The folder `parts` below `root`, made with all above it for their owner alone."""
    folder = root
    for part in parts:
        folder = folder / part
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def instant(moment: datetime) -> str:
    """An instant as documents write it: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment_of(text: str, where: str) -> datetime:
    """The instant that a document writes. Raises UsageError for the 31st of February."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise UsageError("an instant is no date and time", where=where) from None
