"""How numbers look. Null is never shown as zero, dash or blank: it reads "not estimable"."""

from __future__ import annotations

from datetime import datetime

NOT_ESTIMABLE = "not estimable"
DAYS_PER_MONTH = 30.4375
"""Display only; every table keeps days (365.25 / 12)."""


def count(value: int) -> str:
    """A count with thin groups: 12 345."""
    return f"{value:,}".replace(",", "\u202f")


def ratio(value: float | None) -> str:
    """A ratio to two decimals; to more where two would hide on which side of 1 or 0 it lies."""
    if value is None:
        return NOT_ESTIMABLE
    if value < 0.001:
        return "<\u202f0.001" if value > 0 else "0"
    if value < 0.095:
        return f"{value:.2g}"
    if value < 9.995:
        return f"{value:.3f}" if value != 1 and 0.995 <= value < 1.005 else f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else count(round(value))


def decimal(value: float | None, places: int = 2) -> str:
    """A signed decimal with a true minus sign."""
    if value is None:
        return NOT_ESTIMABLE
    return f"{value:.{places}f}".replace("-", "\u2212")


def measure(value: float | None) -> str:
    """A measured value: one decimal from 10 on, two below."""
    return decimal(value, 2 if value is None or abs(value) < 10 else 1)


def percent(share: float | None, places: int = 0) -> str:
    """A share between 0 and 1 as a percentage."""
    return NOT_ESTIMABLE if share is None else f"{100 * share:.{places}f}\u202f%"


def share(value: float | None) -> str:
    """A share between 0 and 1 as a percentage with one decimal."""
    return percent(value, 1)


def p_value(value: float | None) -> str:
    """A p-value to three decimals; below that, "<0.001"."""
    if value is None:
        return NOT_ESTIMABLE
    return "<\u202f0.001" if value < 0.001 else f"{value:.3f}"


def days(value: float | None) -> str:
    """Days, with months beside them."""
    if value is None:
        return NOT_ESTIMABLE
    return f"{whole_days(value)} days ({months(value)})"


def whole_days(value: float) -> str:
    """A number of days, with a decimal only where it has one."""
    return count(int(value)) if float(value).is_integer() else f"{value:.1f}"


def day_difference(value: float | None) -> str:
    """A difference in days: signed, a decimal, months beside it."""
    if value is None:
        return NOT_ESTIMABLE
    return f"{signed(value, 1)} days ({signed(value / DAYS_PER_MONTH, 1)} months)"


def points(value: float | None) -> str:
    """A difference of two shares in percentage points."""
    return NOT_ESTIMABLE if value is None else f"{signed(100 * value, 1)} points"


def signed(value: float, places: int) -> str:
    """A decimal with its sign, plus as well; nothing rounds to minus zero."""
    text = f"{value:+.{places}f}"
    return text[1:] if not float(text) else text.replace("-", "\u2212")


def months(value_days: float | None) -> str:
    """Days shown as months of 30.4375 days."""
    if value_days is None:
        return NOT_ESTIMABLE
    return f"{value_days / DAYS_PER_MONTH:.1f} months"


def interval(low: str, high: str) -> str:
    """Both limits, already formatted; one phrase if neither can be given."""
    return NOT_ESTIMABLE if low == high == NOT_ESTIMABLE else f"{low} to {high}"


def level(value: float | None) -> str:
    """The name of an interval of this confidence level: 95 % CI."""
    return "CI" if value is None else f"{100 * value:g}\u202f% CI"


def instant(value: datetime | None) -> str:
    """A day and minute, with its offset, as recorded."""
    return "unknown" if value is None else value.strftime("%Y-%m-%d %H:%M %Z").strip()


def humanise(name: str) -> str:
    """A machine name as words: `car_t_infusion` is "CAR-T infusion"."""
    return name.replace("_", " ").replace("car t", "CAR-T")


def titled(name: str) -> str:
    """A machine name as words at the beginning of a line."""
    words = humanise(name)
    return words[:1].upper() + words[1:]


def sentence(text: str) -> str:
    """The text with a capital first letter and one full stop."""
    text = text.strip()
    return text if not text else text[0].upper() + text[1:].rstrip(".") + "."


def inside(label: str) -> str:
    """A label as it reads inside a sentence: "in response", but "ECOG" stays."""
    return label[0].lower() + label[1:] if label[1:2].islower() else label


def listing(items: list[str], last: str = "and") -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""
