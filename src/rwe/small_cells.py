"""Counts as they may leave a hospital: rounded to the midpoints of bins of six.

Source: the statistical disclosure control of OpenSAFELY, "midpoint 6 rounding". Any count of 1 to 6 is shown
as 3, 7 to 12 as 9, and so on: nobody can tell six patients from one, nor tonight's count from yesterday's
where one patient came. Rounded cumulative counts give rounded steps of a survival curve.
"""

from __future__ import annotations

_BIN = 6


def midpoint_6(count: int) -> int:
    """The midpoint of the bin of six that holds `count`; 0 stays 0. Raises ValueError below 0."""
    if count < 0:
        raise ValueError("a count is not negative")
    return 0 if count == 0 else -(-count // _BIN) * _BIN - _BIN // 2
