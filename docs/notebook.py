"""A notebook over the published database: `marimo edit docs/notebook.py`, or as a script with Python.

It reads the workspace named by RWE_WORKSPACE, or the file named by RWE_DATABASE. Every cell asks through
`ask`, which is as locked as `rwe sql`; marimo's own SQL cells are not, so this notebook has none.
"""

# ruff: noqa: PLC0415, B018 (marimo's cells are functions of what other cells define)
import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="The published database")


@app.cell
def _():
    import os
    from pathlib import Path

    import marimo as mo

    from rwe.adhoc.session import ask as ask_database
    from rwe.adhoc.session import database_file, published_database
    from rwe.config import open_workspace

    file = os.environ.get("RWE_DATABASE")
    database = database_file(Path(file)) if file else published_database(open_workspace())

    def ask(query, *values):
        """The answer to one SELECT, as a pandas DataFrame; the values stand for its `?`."""
        return ask_database(query, database, values).to_pandas()

    return ask, mo


@app.cell
def _(ask, mo):
    build = ask("select content_sha256, code_version, studies from meta.build")
    mo.md(
        f"# The published database\n\nStudies: {build.studies[0]}. Content `{build.content_sha256[0][:12]}`."
    )
    return (build,)


@app.cell
def _(ask, mo):
    studies = ask("select study, title from study.protocol order by study")
    study = mo.ui.dropdown(options=list(studies.study), value=studies.study[0], label="Study")
    study
    return (study,)


@app.cell
def _(ask, mo, study):
    attrition = ask(
        "select step, n_before, n_excluded, n_after from cohort.attrition"
        " where study = ? order by step_number",
        study.value,
    )
    mo.vstack([mo.md("## From the recorded index events to the cohort"), attrition])
    return (attrition,)


@app.cell
def _(ask, study):
    cohort = ask(
        "select site, time_days, is_event, start_day, end_reason from cohort.survival"
        " where study = ? order by patient_id",
        study.value,
    )
    return (cohort,)


@app.cell
def _(cohort, mo):
    import matplotlib.pyplot as plt
    from lifelines import KaplanMeierFitter

    # The whole cohort: curves by who started would be biased, for whoever starts has survived until then.
    survival = None
    figure, axes = plt.subplots(figsize=(7, 4))
    if len(cohort):
        fitter = KaplanMeierFitter().fit(cohort.time_days / 30.4375, cohort.is_event)
        survival = fitter.survival_function_
        fitter.plot_survival_function(ax=axes, legend=False)
    axes.set(xlabel="Months from the index event", ylabel="Event-free", ylim=(0, 1))
    mo.vstack([mo.md("## Survival of the whole cohort (Kaplan-Meier)"), figure])
    return (survival,)


if __name__ == "__main__":
    app.run()
