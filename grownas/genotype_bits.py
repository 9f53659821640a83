"""Bit widths in genotypes: checks, JSON and words. `bits` says what they cost, `cells.quantiser` what they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grownas.errors import GenotypeError
from grownas.genotype_json import is_number, items_of

FEWEST_BITS, MOST_BITS = 2, 16  # of a quantised number
Bits = tuple[int, int]  # widths of the weights and of the inputs of a product


def check_bits(bits: Any, place: str) -> None:
    """Refuse what is neither None nor two widths."""
    fits = isinstance(bits, tuple) and len(bits) == 2
    if bits is not None and not (fits and all(is_number(one) and FEWEST_BITS <= one <= MOST_BITS for one in bits)):
        raise GenotypeError(
            f"{place}: {bits!r} is not a width of weights and one of inputs, two whole numbers from {FEWEST_BITS} to "
            f"{MOST_BITS} such as [4, 8]"
        )


def check_all_or_none(bits: Sequence[Bits | None]) -> None:
    """Refuse a cell in which only some units have widths."""
    if None in bits and any(bits):
        raise GenotypeError(f"bits: {bits.count(None)} of {len(bits)} ops have none; give bits to all ops or to none")


def spread(bits: Sequence[Bits], wanted: int, what: str) -> list[Bits | None]:
    """Return a pair of widths for each of the wanted units, or None for each if there are no widths.

    Raises:
        GenotypeError: the number of pairs is another one.
    """
    if bits and len(bits) != wanted:
        raise GenotypeError(f"bits: {len(bits)} pairs of widths, expected {wanted}, one per {what}")
    return [(one[0], one[1]) for one in bits] or [None] * wanted


def in_words(bits: Bits | None, of: str = "") -> str:
    """Return widths in words, to follow what has them; nothing if there are none."""
    return "" if bits is None else f"  ({of}{bits[0]}-bit weights, {bits[1]}-bit inputs)"


def to_dict(bits: Bits | None, key: str = "bits") -> dict[str, Any]:
    """Return widths as in the JSON; nothing if there are none."""
    return {} if bits is None else {key: list(bits)}


def from_dict(tree: Mapping[str, Any], place: str, key: str = "bits") -> Any:
    """Return the widths of an object of plain values, not checked yet; None if it has none."""
    return tuple(items_of(tree[key], place)) if key in tree else None
