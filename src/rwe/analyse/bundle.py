"""The bundle of a refresh: the rows of the primary analysis and an R script that gives the same number.

    evidence/STUDY/REFRESH/reproduce/analysis.csv   the rows at risk        0600, in a folder 0700
    evidence/STUDY/REFRESH/reproduce/analysis.R     base R, and `survival` but for Firth's penalty
    evidence/STUDY/REFRESH/reproduce/columns.csv    what x1, x2, … are; x1 is the exposure
    evidence/STUDY/REFRESH/reproduce/expected.csv   what the evidence says
    evidence/STUDY/REFRESH/reproduce/kinetics.json  single traces of copies and cases, where the study asks

What is of single patients stands here and nowhere else in the evidence: without any id, date or name,
patients and strata numbered by chance, covariates moved by a constant that nobody keeps (a Cox model is the
same). It stays where the lake stays; `rwe erase` removes it; where the lake is encrypted it is not written.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import IO

import numpy as np

from rwe.analyse.tasks import PrimaryRows
from rwe.evidence.contract import Estimate
from rwe.evidence.parts import Kinetics
from rwe.survival.cox import CoxData
from rwe.survival.data import FloatArray

FOLDER = "reproduce"

_SCRIPT = """\
# Reruns the primary analysis of this refresh in R: Rscript analysis.R
# Needs R with the package survival. analysis.csv holds rows at risk on (start, stop], days from index.
library(survival)
rows <- read.csv("analysis.csv")
expected <- read.csv("expected.csv")
fit <- coxph({formula}, data = rows, ties = "{ties}"{options})
log_hr <- unname(coef(fit)["{exposure}"])
se <- sqrt(vcov(fit)["{exposure}", "{exposure}"])
"""

_FIRTH_SCRIPT = """\
# Reruns the primary analysis of this refresh in R: Rscript analysis.R
# A Cox model with Firth's penalty and Breslow ties, written out in base R: coxph has no such penalty, and the
# packages that do are seldom installed. analysis.csv holds rows at risk on (start, stop], days from index.
rows <- read.csv("analysis.csv")
expected <- read.csv("expected.csv")
X <- as.matrix(rows[, c({columns}), drop = FALSE])
unit <- apply(X, 2, sd)
X <- scale(X)
parts <- function(beta) {{
  eta <- drop(X %*% beta)
  loglik <- 0
  information <- matrix(0, ncol(X), ncol(X))
  for (s in unique(rows$stratum)) for (t in unique(rows$stop[rows$stratum == s & rows$event == 1])) {{
    risk <- rows$stratum == s & rows$start < t & rows$stop >= t
    dead <- risk & rows$event == 1 & rows$stop == t
    w <- exp(eta[risk])
    centre <- colSums(w * X[risk, , drop = FALSE]) / sum(w)
    spread <- crossprod(X[risk, , drop = FALSE] * sqrt(w)) / sum(w) - tcrossprod(centre)
    loglik <- loglik + sum(eta[dead]) - sum(dead) * log(sum(w))
    information <- information + sum(dead) * spread
  }}
  list(penalised = loglik + 0.5 * determinant(information)$modulus, information = information)
}}
control <- list(reltol = 1e-16, maxit = 1000, ndeps = rep(1e-5, ncol(X)))
fit <- optim(rep(0, ncol(X)), function(b) -parts(b)$penalised, method = "BFGS", control = control)
log_hr <- fit$par[1] / unit[[1]]
se <- sqrt(solve(parts(fit$par)$information)[1, 1]) / unit[[1]]
"""

_COMPARED = """\
cat(sprintf("log hazard ratio %.10f   expected %.10f\\n", log_hr, expected$log_estimate))
cat(sprintf("standard error   %.10f   expected %.10f\\n", se, expected$se))
cat(sprintf("hazard ratio     %.4f\\n", exp(log_hr)))
far <- {tolerance}
close <- abs(log_hr - expected$log_estimate) < far && (is.na(expected$se) || abs(se - expected$se) < far)
cat(if (close) "the same number\\n" else "NOT the same number\\n")
if (!close) quit(status = 1)
"""
_TOLERANCE, _TOLERANCE_FIRTH = 1e-6, 1e-5
"""Of log hazard ratio and standard error; R's general optimiser stops earlier than Newton's method."""


def write_kinetics(kinetics: Kinetics, folder: Path) -> None:
    """Write single traces and cases into `folder`/reproduce."""
    place = folder / FOLDER
    place.mkdir(mode=0o700, exist_ok=True)
    _write_text(place / "kinetics.json", kinetics.model_dump_json(indent=1) + "\n")


def write_bundle(primary: PrimaryRows, estimate: Estimate, folder: Path) -> Path:
    """Write the bundle of `estimate` into `folder`/reproduce and return that path."""
    place = folder / FOLDER
    place.mkdir(mode=0o700, exist_ok=True)
    names = [f"x{k}" for k in range(1, len(primary.data.names) + 1)]
    _write(place / "analysis.csv", _table(primary.data, names))
    expected = [estimate.log_estimate, estimate.se if primary.has_own_se else None]
    _write(
        place / "expected.csv", [["log_estimate", "se"], ["NA" if e is None else repr(e) for e in expected]]
    )
    _write(
        place / "columns.csv",
        [["column", "meaning"], *(list(pair) for pair in zip(names, primary.data.names, strict=True))],
    )
    _write_text(place / "analysis.R", _script(primary, names))
    return place


def _script(primary: PrimaryRows, names: list[str]) -> str:
    if primary.is_firth:
        columns = ", ".join(f'"{n}"' for n in names)
        return _FIRTH_SCRIPT.format(columns=columns) + _COMPARED.format(tolerance=_TOLERANCE_FIRTH)
    return _cox_script(primary, names) + _COMPARED.format(tolerance=_TOLERANCE)


def _cox_script(primary: PrimaryRows, names: list[str]) -> str:
    terms = [*names, *(["strata(stratum)"] if primary.data.strata else [])]
    options = []
    if not np.all(primary.data.weight == 1):
        options.append("weights = weight")
    if primary.is_robust:
        options.append("cluster = patient")
    return _SCRIPT.format(
        formula=f"Surv(start, stop, event) ~ {' + '.join(terms)}",
        ties=primary.ties,
        options="".join(f", {o}" for o in options),
        exposure=names[0],
    )


def _table(data: CoxData, names: list[str]) -> list[list[str]]:
    # No seed: whoever could draw the same numbers again could tell whose row is whose.
    rng = np.random.default_rng()
    patient = rng.permutation(int(data.cluster.max()) + 1)[data.cluster] + 1
    stratum = rng.permutation(max(len(data.strata), 1))[data.stratum] + 1
    header = ["patient", "stratum", "start", "stop", "event", "weight", *names]
    columns = [
        patient,
        stratum,
        data.start,
        data.stop,
        data.event.astype(int),
        data.weight,
        *_moved(data, rng),
    ]
    order = np.lexsort((data.start, patient))
    return [header, *([_text(c[i]) for c in columns] for i in order)]


def _moved(data: CoxData, rng: np.random.Generator) -> list[FloatArray]:
    """Covariates with more than two values moved by chance: an exact age would say when somebody was born."""
    columns = []
    for column in data.X.T:
        spread = float(column.std()) if len(np.unique(column)) > 2 else 0.0
        columns.append(np.round(column + rng.uniform(-5, 5) * spread, 12))
    return columns


def _text(value: object) -> str:
    """All digits of a number, so that nothing is lost on the way."""
    number = float(value)  # type: ignore[arg-type]
    return str(int(number)) if number.is_integer() else repr(number)


def _write(path: Path, rows: list[list[str]]) -> None:
    with _private(path) as f:
        csv.writer(f, lineterminator="\n").writerows(rows)


def _write_text(path: Path, text: str) -> None:
    with _private(path) as f:
        f.write(text)


def _private(path: Path) -> IO[str]:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    return os.fdopen(handle, "w", encoding="ascii", newline="")
