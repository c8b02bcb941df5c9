"""Kubernetes quantities, as far as the weights of split v1alpha1 need them: exact, in thousandths.

A weight is never rounded (semantics.md, "Versions and wire forms"), so a quantity that is finer than a thousandth is
refused rather than cut. Used by the schema check, which says what is wrong, and by the decoder, which takes the value.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_WEIGHT = 2**53 - 1
"""The largest weight in whole units: what every JSON reader can hold exactly."""

MAX_LENGTH = 32

_FORM = re.compile(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)([a-zA-Z]*|[eE][+-]?[0-9]{1,3})")
_SCALE = {suffix: Fraction(1000) ** power for power, suffix in enumerate(("m", "", "k", "M", "G", "T", "P", "E"))}
_SCALE |= {
    suffix: 1000 * Fraction(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)
}


class QuantityError(ValueError):
    """The text is no quantity that can be a weight; the message says why."""


def milli(text: str) -> int:
    """Return the quantity in thousandths: `1` is 1000, `500m` is 500."""
    form = _FORM.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if form is None:
        raise QuantityError("it is not a quantity")
    number, suffix = form.groups()
    if suffix in _SCALE:
        scale = _SCALE[suffix]
    elif suffix[1:].lstrip("+-").isdigit():
        scale = 1000 * Fraction(10) ** int(suffix[1:])
    else:
        raise QuantityError(f"its suffix {suffix} is not one of Kubernetes")
    value = Fraction(number) * scale
    if value.denominator != 1:
        raise QuantityError("it is finer than a thousandth")
    if value > 1000 * MAX_WEIGHT:
        raise QuantityError(f"it is over {MAX_WEIGHT}")
    return value.numerator


def trouble(text: str) -> str:
    """Return "" if the text can be a weight, else why not."""
    try:
        milli(text)
    except QuantityError as error:
        return str(error)
    return ""


def write(thousandths: int) -> int | str:
    """Return the v1alpha1 form: a plain integer wherever there is one, because Flagger reads nothing else."""
    whole, rest = divmod(thousandths, 1000)
    return f"{thousandths}m" if rest else whole
