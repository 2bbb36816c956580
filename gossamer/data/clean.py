"""Cleaning: HTML or wiki markup in, plain prose out.

Pure functions of one text. Every step is a single scan whose cost grows linearly with the text, whatever it
holds: no regular expression here can run over the same characters twice from different starts. That keeps hostile
markup ("{{" a million times) harmless.
"""

from typing import Literal

from gossamer.data.characters import normalise_characters, normalise_whitespace
from gossamer.data.html import strip_html
from gossamer.data.wiki import strip_wiki

Kind = Literal["plain", "html", "wiki"]


def clean(text: str, kind: Kind = "plain") -> str:
    """Return the prose of `text`.

    "plain" keeps the text as it is but for line ends, control characters and Unicode form (NFC).
    "html" and "wiki" also remove the markup and normalise white space. Cleaning twice changes nothing
    for "plain"; markup is never left half removed, but text that only looks like markup may be lost.
    """
    text = normalise_characters(text)
    if kind == "html":
        return normalise_whitespace(strip_html(text))
    if kind == "wiki":
        return normalise_whitespace(strip_wiki(text))
    return text
