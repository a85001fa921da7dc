"""Four hospitals and a hub, each with a workspace of its own, made from the FHIR files of case e."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rwe.config import Workspace, init_workspace, open_workspace
from rwe.federate import hub, site
from rwe.federate.documents import Mode, SignedAnswer, read_answer
from rwe.federate.result import FederatedResult
from rwe.federate.site import own_tables
from rwe.identity import make_identity, pin, read_identity
from rwe.intake import import_folder
from rwe.study import Study, find_study, load_studies
from rwe.survival.data import CohortTable
from rwe.warehouse.build import build
from tests.support import ROOT

CASE = ROOT / "tests" / "cases" / "e_three_sites"
STUDIES = ROOT / "tests" / "cases_studies"
THREE, FOUR = ("siteA", "siteB", "siteC"), ("siteA", "siteB", "siteC", "siteD")
NO_MINIMUM = {"min_new_patients": 0, "min_new_events": 0}


@dataclass(frozen=True)
class Hospitals:
    """Folders of the workspaces, by name (`hub` and the sites), and a folder for files between them."""

    root: Path

    def folder(self, name: str) -> Path:
        return self.root / name / "workspace"

    def workspace(self, name: str) -> Workspace:
        return open_workspace(self.folder(name))

    def study(self, name: str = "hub", study: str = "three_sites") -> Study:
        return find_study(study, self.workspace(name).studies)

    def cohort(self, sites: Iterable[str], study: str = "three_sites") -> CohortTable:
        """The patients of several sites in one table, as a hub that pools them would have it."""
        found = [own_tables(self.workspace(s), self.study(s, study)).cohort() for s in sites]
        return CohortTable(
            pd.concat([f.patients for f in found], ignore_index=True),
            pd.concat([f.changes for f in found], ignore_index=True),
        )

    def settings(self, name: str, **federation: object) -> None:
        """Replace the block `federation` of a workspace's rwe.yaml."""
        path = self.folder(name) / "rwe.yaml"
        text = path.read_text().split("# federation of the test\n")[0]
        block = "".join(f"  {k}: {v}\n" for k, v in federation.items())
        path.write_text(text + "# federation of the test\n" + ("federation:\n" + block if block else ""))

    def forget(self) -> None:
        """As if nothing had been asked, approved or answered yet."""
        for name in ("hub", *FOUR):
            shutil.rmtree(self.folder(name) / "federate", ignore_errors=True)
            self.settings(name)


def make_hospitals(root: Path, studies: dict[str, str]) -> Hospitals:
    """Workspaces with these study files (text by name), what has landed built, keys made and pinned."""
    made = Hospitals(root)
    for name in ("hub", *FOUR):
        folder = made.folder(name)
        folder.parent.mkdir()
        workspace = init_workspace(folder, key_file=folder.parent / "key")
        shutil.copytree(STUDIES / "codelists", workspace.studies / "codelists", dirs_exist_ok=True)
        for study, text in studies.items():
            (workspace.studies / f"{study}.yaml").write_text(text)
        if name != "hub":
            import_folder(workspace, CASE / "fhir" / name, name)
            workspace = open_workspace(folder)
            build(workspace, load_studies(workspace.studies))
        make_identity(workspace)
    publics = {n: read_identity(made.workspace(n)).public for n in ("hub", *FOUR)}
    for name in publics:
        for other, public in publics.items():
            pin(made.workspace(name), other, public, public.fingerprint)
    return made


def study_text(name: str = "three_sites", analyses: str | None = None, eligibility: str = "") -> str:
    """The study of case e under another name, asking for other analyses of fewer patients."""
    text = (STUDIES / "three_sites.yaml").read_text().replace("name: three_sites", f"name: {name}")
    if analyses is not None:
        text = text.split("analyses:\n")[0] + "analyses:\n" + analyses
    return text.replace("horizons: [365]\n", f"horizons: [365]\n{eligibility}")


#: The studies of these tests: case e for three and for four sites, models of other kinds, and one that leaves
#: out a few of the same patients.
STUDY_TEXTS = {
    "three_sites": study_text(),
    "four_sites": study_text("four_sites"),
    "other_models": study_text(
        "other_models",
        """\
  - {analysis: time_dependent_cox, adjusted_for: [age, ecog], stratify_by: [site], variance: robust}
  - {analysis: time_dependent_firth, adjusted_for: [age, ecog], stratify_by: [site]}
  - {analysis: landmark_cox, adjusted_for: [age], stratify_by: [site], landmarks: [60, 90]}
  - {analysis: clone_censor_weight, adjusted_for: [age, ecog], stratify_by: [site], replicates: 0}
  - {analysis: time_dependent_cox, stratify_by: [site]}
  - {analysis: time_dependent_cox, adjusted_for: [age]}
""",
    ),
    "nested": study_text(
        "nested", eligibility="eligibility:\n  - {name: not_the_oldest, kind: age_at_index, max_years: 78}\n"
    ),
}


def approve_everywhere(made: Hospitals, sites: Iterable[str], study: str = "three_sites") -> None:
    for name in sites:
        site.approve(made.workspace(name), made.study(name, study))


def run_refresh(
    made: Hospitals,
    sites: Iterable[str],
    post: Path,
    *,
    mode: Mode = "masked",
    study: str = "three_sites",
    analysis: int | None = None,
    landmark_day: int | None = None,
) -> FederatedResult:
    """A whole refresh in this process; every file that went between them stays in `post`."""
    asked = hub.init(
        made.workspace("hub"),
        made.study("hub", study),
        list(sites),
        post,
        mode=mode,
        analysis=analysis,
        landmark_day=landmark_day,
    )
    while True:
        for name in sites:
            site.answer(made.workspace(name), asked.path, post)
        found = hub.combine(made.workspace("hub"), asked.refresh, post, post)
        if isinstance(found, FederatedResult):
            return found
        asked = found


def answer_in(post: Path, refresh: str, step: int, name: str) -> SignedAnswer:
    """The answer of a site to a step, among the files that went between hub and sites."""
    (found,) = (
        read_answer(p)
        for p in post.glob(f"answer-{step:02d}-*.json")
        if (d := read_answer(p).document).refresh == refresh and d.site == name
    )
    return found


_LOOP = """
import contextlib, io, json, sys
from rwe.cli import main
for line in sys.stdin:
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(json.loads(line))
        except SystemExit as e:
            status = e.code
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""


class Party:
    """A hub or a site: a process of its own in which `rwe` runs its commands, one after the other."""

    def __init__(self, folder: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RWE_")}
        environment["RWE_WORKSPACE"] = str(folder)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOOP],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder.parent,
        )

    def start(self, *words: object) -> None:
        """Begin a command; `finish` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([str(w) for w in words]) + "\n")
        self._process.stdin.flush()

    def finish(self, status: int = 0) -> str:
        """What the command printed; it must end with this status."""
        assert self._process.stdout is not None
        found, out, err = json.loads(self._process.stdout.readline())
        assert found == status, err
        return str(out if status == 0 else err)

    def rwe(self, *words: object, status: int = 0) -> str:
        self.start(*words)
        return self.finish(status)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


@contextmanager
def parties(made: Hospitals, names: Iterable[str]) -> Iterator[dict[str, Party]]:
    """A process for each workspace."""
    found = {name: Party(made.folder(name)) for name in names}
    try:
        yield found
    finally:
        for party in found.values():
            party.close()
