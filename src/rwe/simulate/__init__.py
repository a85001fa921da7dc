"""The calibration harness: how right are the estimators where the truth is known?

The synthetic hospitals of `rwe.sandbox`, without HTTP, are drawn again and again; every estimator answers
each time, and is judged against its own estimand: a conditional hazard ratio is what the simulation was
given, a marginal one is found by making everybody follow each strategy. `harness.simulate` runs it,
`page.write` shows it, `coverage` tells an analysis what was found for few events.
"""
