"""The calibration harness: how right are the estimators where the truth is known?

The synthetic hospitals of `rwe.sandbox`, without HTTP, are drawn again and again; every estimator answers
each time, and is judged against its own estimand: a conditional hazard ratio is what the simulation was
given, a marginal one is found by making everybody follow each strategy.
"""

from rwe.simulate.estimators import ESTIMATORS, Estimator
from rwe.simulate.harness import Performance, Simulation, simulate
from rwe.simulate.scenarios import SCENARIOS, Scenario

__all__ = ["ESTIMATORS", "SCENARIOS", "Estimator", "Performance", "Scenario", "Simulation", "simulate"]
