"""HTML in, its visible text out; and the scans over tags that wiki markup needs too. Linear in the text."""

import html
import re
from collections.abc import Callable

from gossamer.data.characters import normalise_characters

# No group is repeated possessively: Python 3.11 before 3.11.5, Debian's too, then matches too much (cpython gh-106052).

_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9:-]*+)((?:[^<>\"']++|\"[^\"<]*+\"|'[^'<]*+')*|[^<>]*+)>")
_BLOCK_TAGS = frozenset(
    {
        "address", "article", "aside", "blockquote", "body", "br", "center", "dd", "div", "dl", "dt",
        "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6",
        "header", "hr", "html", "li", "main", "nav", "ol", "option", "p", "pre", "section", "select",
        "table", "tbody", "td", "tfoot", "th", "thead", "title", "tr", "ul",
    }
)  # fmt: skip
_HTML_DROPPED = frozenset(
    {
        "head", "script", "style", "template", "noscript", "svg", "math", "iframe", "object",
        "textarea", "select",
    }
)  # fmt: skip


def strip_html(text: str) -> str:
    """Return the visible text of an HTML page or fragment; blocks end lines, scripts and styles are
    dropped."""

    def replacement(name: str, closing: bool, following: str) -> str:
        if name == "li" and not closing:
            return "\n- "
        if name in ("p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "table"):
            return "\n\n"
        return "\n" if name in _BLOCK_TAGS else ""

    text = remove_between(text, "<!--", "-->")
    text = remove_between(text, "<!", ">")
    text = remove_between(text, "<?", ">")
    text = replace_tags(text, _HTML_DROPPED, replacement)
    return normalise_characters(html.unescape(text))


def replace_tags(text: str, dropped: frozenset[str], replacement: Callable[[str, bool, str], str]) -> str:
    """Replace every tag, and drop the `dropped` elements with what they hold.

    `replacement(name, closing, following)` gives what stands for a tag; `following` is the next character.
    """
    pieces: list[str] = []
    never_closed: set[str] = set()
    position = 0
    while match := _TAG.search(text, position):
        pieces.append(text[position : match.start()])
        closing, name, self_closed = bool(match[1]), match[2].lower(), match[3].endswith("/")
        position = match.end()
        if name in dropped:
            if closing or self_closed or name in never_closed:
                continue
            end = re.compile(rf"</{re.escape(name)}[^<>]*+>", re.IGNORECASE).search(text, position)
            if end is None:
                never_closed.add(name)
            else:
                pieces.append(_kept_of_element(name, text[position : end.start()]))
                position = end.end()
        else:
            pieces.append(replacement(name, closing, text[position : position + 1]))
    pieces.append(text[position:])
    return "".join(pieces)


_PLAIN_FORMULA = re.compile(r"[A-Za-z0-9 =+\-.,()<>]{1,24}")


def _kept_of_element(name: str, content: str) -> str:
    """A short formula without commands reads as text ("n = 3"); everything else that is dropped leaves
    nothing."""
    formula = content.strip()
    if name == "math" and _PLAIN_FORMULA.fullmatch(formula):
        return html.escape(formula, quote=False)
    return ""


def remove_between(text: str, opening: str, closing: str) -> str:
    """Remove every `opening` ... `closing`; an opening that is never closed stays."""
    pieces: list[str] = []
    position = 0
    while (start := text.find(opening, position)) >= 0:
        end = text.find(closing, start + len(opening))
        if end < 0:
            break
        pieces.append(text[position:start])
        position = end + len(closing)
    pieces.append(text[position:])
    return "".join(pieces)
