"""From a study and its tables to evidence.json: reads, plans, calls the estimators, writes."""

from rwe.analyse.refresh import Analysed, analyse, latest_folder

__all__ = ["Analysed", "analyse", "latest_folder"]
