"""The rules under which the resources of one site enter the lake, and the places they go to."""

from __future__ import annotations

import hashlib
from pathlib import Path
from zoneinfo import ZoneInfo

from rwe.config import Site, Workspace
from rwe.lake.pseudonyms import Pseudonymiser, key_fingerprint
from rwe.lake.reader import Mapping
from rwe.lake.rules import actions
from rwe.lake.schema import LAKE_VERSION
from rwe.lake.sealed import sealed_name
from rwe.lake.texts import PermittedTexts
from rwe.landing import Run


class SiteContext:
    """What holds for one site. Two runs belong into one lake if their `fingerprint` is the same."""

    def __init__(self, workspace: Workspace, site: str, runs: list[Run], key: bytes) -> None:
        """Raises ConfigError where a rule or the file of permitted texts is wrong."""
        settings = workspace.settings
        declared = settings.sites.get(site)
        zone_name = declared.time_zone if declared else (runs[-1].manifest.time_zone if runs else "UTC")
        self.site = site
        self.cipher = workspace.cipher()
        self.lake: Path = workspace.lake
        self.quarantine: Path = workspace.quarantine
        self.zone = ZoneInfo(zone_name)
        self.validation = settings.validation
        self.memory_limit = settings.memory_limit
        self.mapping = Mapping(
            pseudonyms=Pseudonymiser(key, site, declared.base_url if declared else None),
            zone=self.zone,
            birth_date=settings.birth_date,
            actions=actions(settings.rules, is_strict=settings.validation == "strict"),
            texts=PermittedTexts.read(declared.permitted_texts if declared else None, site),
        )
        labels = (declared or Site()).security_labels
        self.excluded_labels = labels.excluded
        rules = [LAKE_VERSION, zone_name, settings.birth_date, settings.validation, sorted(labels.excluded)]
        changed = repr(sorted(settings.rules.items())) + repr(self.mapping.texts.sorted)
        chosen = hashlib.sha256(changed.encode()).hexdigest()[:16]
        self.fingerprint = "|".join(map(str, [*rules, chosen, key_fingerprint(key)]))

    def table(self, resource_type: str, run: str) -> Path:
        """Where the rows of a type go."""
        return self.lake / resource_type / f"site={self.site}" / self.name(f"run={run}.parquet")

    def name(self, name: str) -> str:
        """The name of a file, which is encrypted where there is a key."""
        return sealed_name(name, self.cipher)

    def marker(self, run: str) -> Path:
        """Where the counts of a run go, last of all."""
        return self.lake / "_runs" / f"site={self.site}" / f"run={run}.json"

    def quarantined(self, run: str) -> Path:
        """Where goes what was refused or flagged."""
        return self.quarantine / f"site={self.site}" / self.name(f"run={run}.parquet")
