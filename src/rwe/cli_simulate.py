"""The command `rwe simulate`: how right are the estimators where the truth is known?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from rwe import terminal
from rwe.errors import UsageError


def simulate(
    folder: Annotated[Path, typer.Option("--out", help="Where the table, figure and numbers go.")] = Path(
        "rwe-simulation"
    ),
    *,
    scenario: Annotated[
        list[str] | None, typer.Option("--scenario", help="Only this scenario; may repeat.")
    ] = None,
    replicates: Annotated[int, typer.Option(min=1, max=100_000, help="Cohorts a scenario.")] = 200,
    seed: Annotated[int, typer.Option(help="The same seed gives the same numbers.")] = 1,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Keep finished scenarios in OUT/scenarios; take from there what is."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; else one a core.", show_default=False)
    ] = None,
) -> None:
    """Judge every estimator on synthetic cohorts whose truth is known: bias, coverage, error, power.

    Example: rwe simulate --scenario confounded --replicates 500
    """
    from rwe.simulate.estimators import ESTIMATORS
    from rwe.simulate.harness import simulate as run
    from rwe.simulate.kept import Kept
    from rwe.simulate.page import write
    from rwe.simulate.scenarios import SCENARIOS

    known = {s.name: s for s in SCENARIOS}
    unknown = [name for name in scenario or () if name not in known]
    if unknown:
        raise UsageError(f"there is no scenario {unknown[0]!r}", advice=f"there are: {', '.join(known)}")
    chosen = [known[name] for name in dict.fromkeys(scenario or known)]
    with terminal.progress_bars() as bars:
        found = run(
            chosen,
            replicates=replicates,
            seed=seed,
            workers=workers or os.cpu_count() or 1,
            progress=bars,
            store=Kept(folder / "scenarios", seed, replicates, ESTIMATORS) if resume else None,
        )
    for path in write(found, folder):
        terminal.say(terminal.out, str(path))
