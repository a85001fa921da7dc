"""From evidence.json to one self-contained page. Reads nothing else, computes nothing."""

from rwe.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
