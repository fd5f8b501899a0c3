"""
JSON that is longer than memory should hold, read a piece at a time.

The caller walks through the document in its order and says of each place what it
expects: members of an object, elements of an array, a whole (small) value. Structure is
checked here; what is inside a value, by whoever decodes its bytes. Everything that is
held at once is bounded: a chunk of input, and `MAX_VALUE` of one value.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from nitrosigner.verdicts import Code, Malformed

CHUNK: Final = 256 * 1024
"""Bytes that are asked for at once."""
MAX_VALUE: Final = 64 * 1024
"""Bytes of one value that is taken whole."""
MAX_DEPTH: Final = 16
"""Levels inside one value that is taken whole."""

# Possessive throughout: nothing here ever backtracks, whatever the input.
_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_STRING: Final = re.compile(rb'"(?>[^"\\]++|\\.)*+"', re.DOTALL)
_WORD: Final = re.compile(rb"[-+.0-9A-Za-z]++")
_BRACKET: Final = re.compile(rb'"(?>[^"\\]++|\\.)*+"|[\[\]{}"]', re.DOTALL)
_FLAT_OBJECTS: Final = re.compile(
    rb'(?>[ \t\n\r]*+\{(?>[^"{}\[\]]++|"(?>[^"\\]++|\\.)*+")*+\}[ \t\n\r]*+,)++',
    re.DOTALL,
)


class JsonStream:
    """One document. Each method starts where the one before it ended."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        """Read from *read*, which returns up to as many bytes as asked, none at end."""
        self._read = read
        self._buffer = b""
        self._at = 0
        self._ended = False

    def members(self) -> Iterator[str]:
        """
        Yield the names of an object's members; take each value before going on.

        Raises:
            Malformed: Not an object, or a name comes twice: which one counts?
        """
        self._expect(b"{")
        if self._taken(b"}"):
            return
        seen = set()
        while True:
            name = self._name()
            if name in seen:
                raise _malformed("a name comes twice in one object")
            seen.add(name)
            self._expect(b":")
            yield name
            if self._taken(b"}"):
                return
            self._expect(b",")

    def elements(self) -> Iterator[None]:
        """Yield at each element of an array; take it before going on."""
        self._expect(b"[")
        if self._taken(b"]"):
            return
        while True:
            yield
            if self._taken(b"]"):
                return
            self._expect(b",")

    def batches(self) -> Iterator[bytes]:
        """
        Yield an array in parts, each of them a JSON array of whole elements.

        Meant for long arrays of small objects, which it cuts without looking inside.
        """
        self._expect(b"[")
        if self._taken(b"]"):
            return
        while True:
            self._fill(CHUNK)
            run = _FLAT_OBJECTS.match(self._buffer, self._at)
            if run is not None:
                self._at = run.end()
                yield b"[" + run[0][:-1] + b"]"
                continue
            yield b"[" + self.value() + b"]"
            if self._taken(b"]"):
                return
            self._expect(b",")

    def value(self) -> bytes:
        """
        Return the bytes of one whole value.

        Raises:
            Malformed: There is none, or it is too long or too deep.
        """
        first = self._peek()
        self._fill(MAX_VALUE)
        if first == b'"':
            end = self._end_of(_STRING)
        elif first in (b"{", b"["):
            end = self._end_of_brackets()
        else:
            end = self._end_of(_WORD)
        if end - self._at > MAX_VALUE:
            raise _malformed("a value is too long")
        taken = self._buffer[self._at : end]
        self._at = end
        return taken

    def end(self) -> None:
        """Check that nothing follows."""
        if self._peek():
            raise _malformed("something follows the document")

    # --- the buffer ---------------------------------------------------------------

    def _fill(self, wanted: int) -> None:
        """Have *wanted* bytes in the buffer, or all that there are."""
        while len(self._buffer) - self._at < wanted and not self._ended:
            more = self._read(CHUNK)
            self._ended = not more
            self._buffer = self._buffer[self._at :] + more
            self._at = 0

    def _peek(self) -> bytes:
        """Return the next byte that is not white space; none at the end."""
        while True:
            space = _SPACE.match(self._buffer, self._at)
            if space is not None:
                self._at = space.end()
            if self._at < len(self._buffer) or self._ended:
                return self._buffer[self._at : self._at + 1]
            self._fill(1)

    def _taken(self, wanted: bytes) -> bool:
        if self._peek() != wanted:
            return False
        self._at += 1
        return True

    def _expect(self, wanted: bytes) -> None:
        if not self._taken(wanted):
            raise _malformed(f"there is no {wanted.decode()} where one must be")

    def _name(self) -> str:
        if self._peek() != b'"':
            raise _malformed("a member of an object has no name")
        try:
            return msgspec.json.decode(self.value(), type=str)
        except ValueError:
            raise _malformed("a name is no string") from None

    def _end_of(self, form: re.Pattern[bytes]) -> int:
        match = form.match(self._buffer, self._at)
        if match is None:
            raise _malformed("a value is missing, cut off or too long")
        return match.end()

    def _end_of_brackets(self) -> int:
        depth = 0
        for match in _BRACKET.finditer(self._buffer, self._at, self._at + MAX_VALUE):
            bracket = match[0]
            if bracket in (b"{", b"["):
                depth += 1
            elif bracket in (b"}", b"]"):
                depth -= 1
            if depth > MAX_DEPTH or bracket == b'"':
                break
            if depth == 0:
                return match.end()
        raise _malformed("a value is cut off, too long or nested too deep")


def _malformed(reason: str) -> Malformed:
    return Malformed(
        Code.MALFORMED_JSON, f"this is not JSON as it is expected here: {reason}"
    )
