"""The page of a federated refresh: for a hub without patients of its own, which has no other report."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from markupsafe import Markup

from rwe.evidence.federated import FederatedEstimate
from rwe.report import federated
from rwe.report.page import environment, style_sheet, write_html
from rwe.study import Study
from rwe.study_words import explain

_AUDIENCE: Final = "Internal: totals over these sites; not for release outside them without their consent"


_OF_SUMS_ALONE: Final = frozenset({"naive_cox", "landmark_cox", "time_dependent_cox"})
"""Others fit weights at each site, or have another interval than the pooled analysis."""


def render_federated(found: FederatedEstimate, study: Study) -> str:
    """One self-contained HTML page, the same text for the same estimate.

    It says what the evidence would: the estimate, the counts as the sites rounded them, and the protocol in
    words. `study` must be the one that was asked about.
    """
    protocol = study.protocol
    return (
        environment()
        .get_template("federated_page.html.j2")
        .render(
            f=found,
            protocol=protocol,
            names=federated.outcome_names(found, protocol),
            audience=_AUDIENCE,
            style=style_sheet(),
            level=f"{100 * found.ci_level:g}\u202f%",
            answer=federated.sentences(found, protocol),
            figure=Markup(federated.federated_figure([found], protocol)),  # noqa: S704  (its labels are escaped)
            test=federated.test_words(found),
            coefficients=federated.coefficient_rows(found, protocol),
            about=federated.about(found),
            is_one_table=found.analysis in _OF_SUMS_ALONE,
            sums=federated.sums_words(found),
            counts_are=federated.counts_words(found),
            explained=explain(study),
        )
    )


def write_federated(found: FederatedEstimate, study: Study, path: Path) -> None:
    """Write the page: complete or absent, for the owner only."""
    write_html(render_federated(found, study), path, 0o600)
