"""What a synthetic hospital's server can do, and how it misbehaves: the options of a HospitalSpec.

The defaults are the demonstration's: an open server, search only, no quirk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

COHORT_GROUP = "car-t-cohort"
"""Id of the Group whose members are the patients with a CAR-T infusion, of any product."""

RetryAfter = Literal["seconds", "date", "epoch", "absent"]
ExportLevel = Literal["system", "patient", "group"]


@dataclass(frozen=True)
class Quirks:
    """Misbehaviours seen in real servers. The CapabilityStatement is true about them unless `lies`."""

    no_last_updated: tuple[str, ...] = ()
    """Types that cannot be searched by `_lastUpdated`."""
    last_updated_answer: Literal["refused", "ignored"] = "refused"
    """What such a search gets: 400, or everything, the parameter missing from the self link."""
    pairs_are_empty: bool = False
    """`patient=a,b` finds nothing (total 0); one patient works."""
    bare_patient_is_empty: bool = False
    """`patient=ID` finds nothing (total 0); `patient=Patient/ID` works."""
    category_demanded: bool = False
    """An Observation search without `category` or `_id` is 400."""
    no_post: bool = False
    """`POST TYPE/_search` is 405."""
    code_refused: tuple[str, ...] = ()
    """Types that need `patient`, `subject` or `_id` in every search: finding patients by code is 400."""
    no_include: bool = False
    """`_include` is 400."""
    no_elements: bool = False
    """`_elements` is ignored: whole resources come back, without the tag SUBSETTED."""
    unknown_ignored: bool = False
    """Unknown search parameters are ignored and left out of the self link, instead of 400."""
    next_origin: str = ""
    """Next links lie on this origin (`http://127.0.0.1:9`), not on the server's own."""
    ties: Literal["kept", "repeated", "skipped"] = "kept"
    """Where the first resource of a page has the `lastUpdated` of the last one before: repeat that last one,
    or skip the first. (Hospital kind b has thousands of such ties, see Dialect.go_live.)"""
    live_paging: bool = False
    """A page is an offset into a search made anew: changes in between shift it. Else the ids are fixed by the
    first page, bodies are those of the moment, and what was deleted since is left out."""
    page_seconds: float = 0.0
    """Next links answer 410 after so long; 0 is never."""
    no_version_id: bool = False
    """`meta.versionId` and ETag are absent."""
    whole_seconds: bool = False
    """`lastUpdated` of changes is cut to whole seconds: ties in time."""
    no_history: bool = False
    """`_history` is not offered (404)."""
    read_status: int = 0
    """Reading a resource by its id is answered with this status, a Group aside; 0 is as it should be."""
    deleted_is_404: bool = False
    """Reading a deleted resource is 404 instead of 410."""
    busy_requests: int = 0
    """The first so many FHIR requests (/metadata aside) are refused."""
    busy_status: Literal[429, 503] = 429
    busy_retry_after: RetryAfter = "seconds"
    """How it says when to come back: seconds, an HTTP date, an absolute epoch, or not at all."""
    busy_retry_seconds: int = 1
    latency_seconds: float = 0.0
    """How long each FHIR answer waits; requests wait side by side."""
    outcome_entries: bool = False
    """Every searchset ends in an OperationOutcome with `search.mode` outcome, a warning."""
    lies: bool = False
    """The CapabilityStatement declares all that the quirks above took away."""


@dataclass(frozen=True)
class Bulk:
    """Bulk Data Access IG 2.0. Seconds pass on the server's own clock."""

    levels: tuple[ExportLevel, ...] = ("system", "patient", "group")
    polls: int = 1
    """How often the status says 202 before the job is done."""
    retry_after: RetryAfter = "seconds"
    """How the 202 says when to come back."""
    retry_seconds: int = 1
    """How far ahead that is; HAPI says 120 for exports of a minute."""
    progress: bool = True
    """Whether the 202 carries X-Progress."""
    lines_per_file: int = 1000
    files_per_page: int = 0
    """Output files a page of the manifest; 0 is one page. The others follow by `link` next."""
    counts: bool = True
    """Whether the manifest says `count`."""
    wrong_count: bool = False
    """The first output file's `count` is one too high: a file that is not complete."""
    requires_access_token: bool = True
    """What the manifest says. If false, the addresses are signed and a request with Authorization is 400."""
    file_origin: str = ""
    """Files, in the manifest, lie on this origin instead of the server's own."""
    status_origin: str = ""
    """Content-Location lies on this origin instead of the server's own."""
    file_seconds: float = 7200.0
    """Files are gone so long after the first manifest."""
    fresh_links: bool = False
    """Fetching the manifest again, once files are gone, gives new links that work."""
    expired_status: Literal[410, 404] = 410
    type_filter: bool = True
    deleted: bool = True
    """Whether the manifest lists deletions since `_since`."""
    failed_jobs: int = 0
    """The first so many jobs end in 500."""
    failed_types: tuple[str, ...] = ()
    """Types whose resources are missing; the manifest's `error` names them: a partial export."""
    hidden_types: tuple[str, ...] = ()
    """Types that every export but the first holds nothing of, and nothing says so: empty by mistake."""
    repeats_job: bool = False
    """An identical request gets the running or finished job again (HAPI), with its old transactionTime."""
    one_at_a_time: bool = False
    """A kick-off while a job runs is 429 (Oracle)."""
    min_interval_seconds: float = 0.0
    """The same request again within so long is 429 (Epic: a Group once a day)."""
    since_misses_unchanged: bool = False
    """`_since` gives nothing of patients whose Patient did not change (hapi-fhir #4387)."""
    since_misses_joined: bool = False
    """`_since` on a Group gives only what changed, also for members who joined later; else their history."""


@dataclass(frozen=True)
class Access:
    """Who may in. /metadata and .well-known are always open; the token endpoint is ORIGIN/auth/token.

    smart: SMART Backend Services. Keys of the client are `jwks` (a JWK Set as JSON text) or `jwks_file`,
    which is read anew for each assertion, so that keys can be rotated.
    """

    mode: Literal["open", "bearer", "basic", "smart"] = "open"
    bearer_token: str = ""
    username: str = ""
    password: str = ""
    client_id: str = "rwe-client"
    jwks: str = '{"keys": []}'
    jwks_file: str = ""
    algorithms: tuple[str, ...] = ("RS384", "ES384")
    scopes: tuple[str, ...] = ("system/*.read",)
    """What is granted at most, in v1 (`system/*.read`) or v2 (`system/*.rs`) form, or per type."""
    expires_in: float = 300.0
    """Seconds a token lives."""
    uses_per_token: int = 0
    """A token is refused after so many requests, whatever its age: 401 in the middle of a run. 0 is never."""
    token_endpoint: str = ""
    """What .well-known names instead of the true endpoint: a hostile or misconfigured server."""

    def __repr__(self) -> str:
        return f"Access(mode={self.mode!r})"


@dataclass(frozen=True)
class Extras:
    """What more the records hold."""

    group: bool = False
    """A Group `car-t-cohort` (also there whenever the server exports)."""
    consents: bool = False
    """Consent resources: permitting, expired, denying, withdrawn, or none (rwe.sandbox.extras)."""
    labels: bool = False
    """`meta.security` on a few resources: R, V, 42CFRPart2, HTEST."""
