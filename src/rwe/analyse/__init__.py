"""From a study and its tables to evidence.json: reads, plans, calls the estimators, writes."""

from rwe.analyse.refresh import Analysed, analyse, analyse_blind, latest_folder

__all__ = ["Analysed", "analyse", "analyse_blind", "latest_folder"]
