"""
Which values of a context key a policy can tell apart, with one value for each kind.

A search over all requests is finite only because a policy looks at a value through its
conditions: two values that fit the same ones are the same to it. So of each kind one
value is enough, but of *each*: "begins with a" and "ends in b" are two patterns whose
common value is written nowhere. What is missed here is a hole that the linter misses.

A key with several values is a set of such kinds. What KMS fills in itself has one value
each, the registers of a document above all. An encryption context is written by whoever
asks, though, and two names in it that differ in case are one condition key.
"""

from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from typing import Final

from nitrosigner.image.policy_document import Condition, Quantifier
from nitrosigner.image.policy_evaluation import ContextValue, conditions_hold

ATTESTATION: Final = "kms:recipientattestation:"
UNNAMED: Final = "something-else"
UNNAMED_ROLE: Final = f"arn:aws:iam::999999999999:role/{UNNAMED}"
_OTHERS: Final = "xyzqjkwv0123456789 ~\N{REPLACEMENT CHARACTER}"
"""The first that no condition names stands for all that none of them names."""
_COLONS: Final = 5
"""Of an ARN before its last part. A wildcard before them stays within its part."""
MAX_STEPS: Final = 300_000
"""Characters tried on patterns before a search gives up: about a second."""
MAX_KINDS: Final = 10
"""Sets of so many kinds are all tried."""

Conditions = tuple[Condition, ...]


class TooComplicated(Exception):
    """A search gave up. The policy must then count as not judged."""


@lru_cache(maxsize=256)
def values_of(conditions: Conditions) -> tuple[ContextValue, ...]:
    """
    Return a value of each kind for the one key that all *conditions* are about.

    Raises:
        TooComplicated: There are too many kinds.
    """
    single = tuple(dict.fromkeys((*_written(conditions), *fitting(conditions))))
    quantified = [one for one in conditions if one.quantifier is not Quantifier.SINGLE]
    if not quantified or quantified[0].key.startswith(ATTESTATION):
        return single
    kinds: dict[tuple[bool, ...], str] = {}
    for value in single:
        context = {quantified[0].key: value}
        fits = (conditions_hold([one], context, allow=True) for one in quantified)
        kinds.setdefault(tuple(fits), value)
    if len(kinds) > MAX_KINDS:
        raise TooComplicated
    sets: list[tuple[str, ...]] = []
    for size in range(2, len(kinds) + 1):
        sets.extend(combinations(kinds.values(), size))
    return (*single, *sets)


def _written(conditions: Conditions) -> Iterator[str]:
    for condition in conditions:
        if condition.operator == "Bool":
            yield from ("true", "false")
        elif condition.operator != "Null":
            yield from condition.values
    yield from (UNNAMED, UNNAMED_ROLE)


class _Pattern:
    """What a condition compares with, as an automaton: a state is a set of places."""

    def __init__(self, condition: Condition, text: str) -> None:
        """Read *text* as the condition's operator does."""
        of_arn = condition.operator.startswith("Arn")
        self._wild = "*?" if of_arn or "Like" in condition.operator else ""
        self._folds = "IgnoreCase" in condition.operator
        self._text = text.lower() if self._folds else text
        self._narrow = [
            of_arn and text.count(":", 0, place) < _COLONS
            for place in range(len(text) + 1)
        ]
        self.start = self._settled({0})

    def wanted(self, places: frozenset[int]) -> Iterator[str]:
        """Return the characters that are not as good as any other."""
        for place in places:
            wanted = self._text[place : place + 1]
            if wanted in self._wild:
                wanted = ":" if self._narrow[place] else ""
            yield wanted
            if self._folds:
                yield wanted.upper()

    def after(self, places: frozenset[int], character: str) -> frozenset[int]:
        """Return where the next character leads."""
        reached = set()
        for place in places:
            wanted = self._text[place : place + 1]
            if wanted and wanted in self._wild:
                if character != ":" or not self._narrow[place]:
                    reached.add(place + (wanted == "?"))
            elif wanted == (character.lower() if self._folds else character):
                reached.add(place + 1)
        return self._settled(reached)

    def ends(self, places: frozenset[int]) -> bool:
        """Return whether what was read so far fits."""
        return len(self._text) in places

    def _settled(self, places: set[int]) -> frozenset[int]:
        # A star may also stand for nothing.
        for place in tuple(places):
            following = place
            while self._wild and self._text[following : following + 1] == "*":
                following += 1
                places.add(following)
        return frozenset(places)


def fitting(conditions: Conditions) -> Iterator[str]:
    """
    Return for each set of compared texts, that some value fits all of, such a value.

    Nothing is returned where the texts themselves are all that there is to know.

    Raises:
        TooComplicated: They are too many, or too entangled.
    """
    compared = [one for one in conditions if one.operator not in ("Null", "Bool")]
    if not any(map(_is_open, compared)):
        return
    patterns = [_Pattern(one, text) for one in compared for text in one.values]
    named = {character for one in compared for text in one.values for character in text}
    named |= {character.swapcase() for character in named}
    other = next(one for one in _OTHERS if one not in named or one == _OTHERS[-1])
    begin = tuple(one.start for one in patterns)
    waiting = deque([(begin, "")])
    seen = {begin}
    found: set[tuple[bool, ...]] = set()
    steps = 0
    while waiting:
        states, text = waiting.popleft()
        pairs = tuple(zip(patterns, states, strict=True))
        fits = tuple(pattern.ends(places) for pattern, places in pairs)
        if fits not in found:
            found.add(fits)
            yield text
        wanted = {one for pattern, places in pairs for one in pattern.wanted(places)}
        for character in sorted({*wanted, other} - {""}):
            steps += len(pairs)
            if steps > MAX_STEPS:
                raise TooComplicated
            following = tuple(
                pattern.after(places, character) for pattern, places in pairs
            )
            if following not in seen:
                seen.add(following)
                waiting.append((following, text + character))


def _is_open(condition: Condition) -> bool:
    if "IgnoreCase" in condition.operator:
        # KMS writes registers in lower case.
        return not condition.key.startswith(ATTESTATION)
    return (
        "Like" in condition.operator or condition.operator.startswith("Arn")
    ) and any("*" in text or "?" in text for text in condition.values)
