"""Characters and white space of a text in one form: line ends, controls, Unicode's composed form (NFC)."""

import re
import unicodedata

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff\ufffe\uffff\ud800-\udfff]")


def normalise_characters(text: str) -> str:
    """Return `text` in NFC with "\\n" line ends, without control characters, lone surrogates and zero-width
    marks."""
    return unicodedata.normalize("NFC", _CONTROLS.sub("", _LINE_ENDS.sub("\n", text)))


_SPACES = re.compile("[ \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
_BLANK_LINES = re.compile("\n{3,}")


def normalise_whitespace(text: str) -> str:
    """Return `text` with single spaces, no spaces at the ends of lines and at most one blank line in a
    row."""
    lines = [_SPACES.sub(" ", line).strip(" ") for line in text.split("\n")]
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip("\n")
