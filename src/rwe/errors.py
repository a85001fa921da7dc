"""The errors a user can meet. Each says what happened, where, and what to do next.

Messages hold names of sites, types, runs, files and fields; never a value out of a patient's record and
never a credential. The command line turns them into one sentence and an exit status.
"""

from __future__ import annotations


class RweError(Exception):
    """Something failed. Exit status 1.

    Parameters
    ----------
    what: what happened, as a clause without a full stop.
    where: the site, file, resource type or run it concerns.
    advice: what the user can do next, as a clause in the imperative.
    """

    exit_status = 1

    def __init__(self, what: str, *, where: str | None = None, advice: str | None = None) -> None:
        self.what, self.where, self.advice = what, where, advice
        super().__init__(what)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f"; {self.advice}" if self.advice else ""
        return f"{place}{self.what}{remedy}."


class UsageError(RweError):
    """The command, a setting or a file handed in is wrong. Exit status 2; nothing was changed."""

    exit_status = 2


class ConfigError(UsageError):
    """The workspace's rwe.yaml is missing or wrong."""


class StudyError(UsageError):
    """A study file or one of its code lists is wrong."""


class SiteError(RweError):
    """A hospital's server could not be read."""


class LandingError(RweError):
    """A run could not be landed, or a landed run is not what its manifest says."""


class LakeError(RweError):
    """Landed data could not be brought into the lake."""


class BuildError(RweError):
    """The database could not be built, or a check of severity error stopped it."""


class EvidenceError(RweError):
    """Evidence could not be produced, or does not satisfy its schema."""


class PartialError(RweError):
    """Part of the work is done and kept; what failed is named. Exit status 3."""

    exit_status = 3
