"""Wiki markup in, prose out. Linear in the text.

It follows MediaWiki's help pages (Help:Formatting, Help:Links, Help:Tables). Dropped: templates (but for a short
table of those that carry prose), tables, references, galleries, files, categories, and sections that hold no prose
(references, external links ...). Kept: link labels, headings as lines, list items as lines that open with "- ".
"""

import html
import re

from gossamer.data.characters import normalise_characters
from gossamer.data.html import remove_between, replace_tags

MAX_DEPTH = 24
"""Templates, tables and links nested deeper than this are dropped, so that nesting stays cheap."""

# No group is repeated possessively: Python 3.11 before 3.11.5, Debian's too, then matches too much (cpython gh-106052).

_WIKI_DROPPED = frozenset(
    {
        "ref", "references", "gallery", "math", "chem", "ce", "timeline", "hiero", "score",
        "imagemap", "source", "syntaxhighlight", "graph", "mapframe", "maplink", "templatedata",
        "inputbox", "categorytree", "style",
    }
)  # fmt: skip
_EXTERNAL_LINK = re.compile(r"\[(?:https?:|ftp:|mailto:|//)[^\s\[\]]*+[ \t]*+([^\[\]\n]*+)\]", re.IGNORECASE)
_QUOTES = re.compile(r"'{2,}+")
_MAGIC_WORD = re.compile(r"__[A-Z]{2,32}__")


def strip_wiki(text: str) -> str:
    """Return the prose of a page in MediaWiki markup."""
    text = remove_between(text, "<!--", "-->")
    text = replace_tags(text, _WIKI_DROPPED, _wiki_tag)
    text = _strip_brackets(text)
    text = _EXTERNAL_LINK.sub(lambda match: match[1], text)
    text = _QUOTES.sub(lambda match: "'" if len(match[0]) in (4, 6) else "", text)
    text = _MAGIC_WORD.sub("", text)
    text = _strip_lines(text)
    text = normalise_characters(html.unescape(text))
    return _tidy_punctuation(text)


def _wiki_tag(name: str, closing: bool, following: str) -> str:
    if name in ("p", "div", "blockquote", "poem", "center", "table", "tr", "ul", "ol", "h2", "h3", "h4"):
        return "\n"
    if name == "li" and not closing:
        return "\n* "
    if name == "br":
        return " "
    if name == "sup" and not closing and (following.isdigit() or following in "-\u2212+"):
        return "^"
    return ""


_BRACKET = re.compile(r"\{\{|\}\}|\[\[|\]\]|^[ \t:]*+\{\||^[ \t]*+\|\}(?!\})", re.MULTILINE)
_CLOSERS = {"}}": "{{", "]]": "[[", "|}": "{|"}


def _strip_brackets(text: str) -> str:
    """Remove tables, replace templates and links by what they show. One scan with a stack.

    A closing bracket without its opening is dropped; an opening that is never closed is dropped and what
    follows it is kept.
    """
    stack: list[tuple[str, list[str]]] = [("", [])]  # (opening bracket, pieces since then)
    open_count = {"{{": 0, "[[": 0, "{|": 0}
    position = 0
    for match in _BRACKET.finditer(text):
        stack[-1][1].append(text[position : match.start()])
        position = match.end()
        bracket = match[0].strip(" \t:")
        if bracket in open_count:
            stack.append((bracket, []))
            open_count[bracket] += 1
        elif open_count[_CLOSERS[bracket]]:
            opening = _CLOSERS[bracket]
            inner: list[list[str]] = []
            while True:
                found, pieces = stack.pop()
                open_count[found] -= 1
                inner.append(pieces)
                if found == opening:
                    break
            if len(stack) <= MAX_DEPTH:
                content = "".join(piece for pieces in reversed(inner) for piece in pieces)
                stack[-1][1].append(_shown(opening, content))
    stack[-1][1].append(text[position:])
    return "".join(piece for _, pieces in stack for piece in pieces)


def _shown(opening: str, content: str) -> str:
    if opening == "[[":
        return _link_label(content)
    if opening == "{{":
        return _template_text(content)
    return ""


_HIDDEN_NAMESPACES = frozenset(
    {
        "file", "image", "category", "media", "template", "wikipedia", "wp", "portal", "help", "user",
    }
)  # fmt: skip
_INTERLANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)?")


def _link_label(content: str) -> str:
    """The label of [[target|label]]; nothing for files, categories and links to other languages."""
    target, _, label = content.partition("|")
    prefix, colon, rest = target.partition(":")
    if colon and prefix:
        if prefix.strip().lower() in _HIDDEN_NAMESPACES:
            return ""
        if not label and _INTERLANGUAGE.fullmatch(prefix) and not rest.startswith(" "):
            return ""
    if "|" in content:
        return label
    return target.lstrip(":").strip()


_SHOW_FIRST = frozenset(
    {
        "nowrap", "nobr", "small", "smaller", "big", "bigger", "quote", "cquote", "blockquote",
        "quotation", "rquote", "quote box", "block quote", "centered pull quote", "tq", "smallcaps",
        "sc", "nihongo", "abbr", "tooltip", "val", "formatnum", "num", "nts", "keypress", "mono",
        "math", "mvar", "var", "linktext", "not a typo", "ill", "interlanguage link",
        "interlanguage link multi", "vanchor", "visible anchor", "angbr", "angle bracket", "ipa",
        "flag", "flagu", "ship", "hlist", "unicode", "polytonic",
    }
)  # fmt: skip
_QUOTES_OF_TEXT = frozenset(
    {"quote", "cquote", "blockquote", "quotation", "rquote", "quote box", "block quote"}
)
_UNITS = {
    "mi": "miles",
    "km2": "km²",
    "sqkm": "km²",
    "sqmi": "square miles",
    "C": "°C",
    "F": "°F",
    "ft": "feet",
}


def _template_text(content: str) -> str:
    """What a template shows, for the few that carry prose; nothing for all others."""
    parts = content.split("|")
    name = parts[0].strip().lower().replace("_", " ")
    positional = [part.strip() for part in parts[1:] if "=" not in part]
    positional += [part.split("=", 1)[1].strip() for part in parts[1:] if part.lstrip()[:2] in ("1=", "2=")]
    named = dict(part.strip().split("=", 1) for part in parts[1:] if "=" in part)
    if name in ("convert", "cvt") and len(positional) >= 2:
        return _converted(positional)
    if name in ("lang", "transl", "transliteration", "script") and positional:
        return positional[-1]
    if name.startswith("lang-") and positional:
        return positional[0]
    if name in ("as of", "asof") and positional:
        return ("as of " if "lc" in {key.strip() for key in named} else "As of ") + " ".join(positional)
    if name in ("c.", "circa", "c", "ca.") and positional:
        return "c. " + positional[0]
    if name in ("frac", "fraction", "sfrac") and positional:
        return _fraction(positional)
    if name in ("ndash", "spaced ndash", "snd", "spnd"):
        return " \u2013 "
    if name in ("mdash", "emdash"):
        return " — "
    if name in ("'", "'s"):
        return name
    if name in ("chem", "chem2", "gaps"):
        return "".join(positional)
    if name in ("nbsp", "spaces", "space", "\\"):
        return " "
    if name in _QUOTES_OF_TEXT:
        text = (
            positional[0]
            if positional
            else next((v for k, v in named.items() if k.strip() in ("text", "quote")), "")
        )
        return "\n" + text.strip() + "\n"
    if name in _SHOW_FIRST and positional:
        return positional[0]
    return ""


def _converted(positional: list[str]) -> str:
    """{{convert|5|km}} shows "5 km", {{convert|5|to|8|km}} "5 to 8 km"."""
    if len(positional) >= 4 and positional[1] in ("to", "-", "\u2013", "and", "by", "x", "or", "to about"):
        joint = positional[1] if positional[1] in "-\u2013" else f" {positional[1]} "
        return f"{positional[0]}{joint}{positional[2]} {_UNITS.get(positional[3], positional[3])}"
    return f"{positional[0]} {_UNITS.get(positional[1], positional[1])}"


def _fraction(positional: list[str]) -> str:
    if len(positional) == 1:
        return f"1/{positional[0]}"
    if len(positional) == 2:
        return "/".join(positional)
    return f"{positional[0]} {positional[1]}/{positional[2]}"


_SECTIONS_WITHOUT_PROSE = frozenset(
    {
        "bibliography", "citations", "external links", "footnotes", "further reading", "gallery",
        "notes", "notes and references", "references", "references and notes", "see also", "sources",
        "works cited", "related topics", "related pages", "cited sources", "primary sources",
        "secondary sources", "filmography", "discography", "explanatory notes", "general references",
        "literature", "notes and citations",
    }
)  # fmt: skip
_HEADING = re.compile(r"(={1,6}+)([^=\n]++(?:=[^=\n]++)*)(={1,6}+)[ \t]*+")
_LIST_MARKS = "*#:;"


def _strip_lines(text: str) -> str:
    """Turn headings, lists and rules into plain lines; drop sections without prose and headings without
    text."""
    lines: list[str] = []
    waiting: list[tuple[int, str]] = []  # headings (level, title) not followed by text so far
    skipped_level = 0  # level of the section that is being dropped, 0 for none
    for line in text.split("\n"):
        if heading := _HEADING.fullmatch(line.rstrip()):
            level, title = len(heading[1]), heading[2].strip()
            if skipped_level and level > skipped_level:
                continue
            skipped_level = level if title.lower() in _SECTIONS_WITHOUT_PROSE else 0
            while waiting and waiting[-1][0] >= level:
                waiting.pop()
            if not skipped_level:
                waiting.append((level, title))
            continue
        plain = "" if skipped_level else _plain_line(line)
        if plain:
            for _, title in waiting:
                lines += ["", title, ""]
            waiting = []
        lines.append(plain)
    return "\n".join(lines)


def _plain_line(line: str) -> str:
    stripped = line.strip()
    if stripped.startswith("----"):
        stripped = stripped.lstrip("-")
    if not stripped or stripped[0] not in _LIST_MARKS:
        # A line of a table whose opening was lost.
        return "" if stripped.startswith(("|", "!")) and "||" in stripped else stripped
    content = stripped.lstrip(_LIST_MARKS)
    marks = stripped[: len(stripped) - len(content)]
    content = content.strip()
    if not any(character.isalnum() for character in content):
        return ""
    return f"- {content}" if marks[-1] in "*#" else content


_EMPTY_BRACKETS = re.compile(r"[ ]?\([ \t;,:\u00a0]*+\)|[ ]?\[[ \t;,:\u00a0]*+\]")
_BRACKET_START = re.compile(r"\([ \t;,:\u00a0]++")
_SPACE_BEFORE_MARK = re.compile(r"(?<![ \t\u00a0])[ \t\u00a0]++(?=\)|[,.;:](?:\s|$))", re.MULTILINE)
_MARKS_IN_A_ROW = re.compile(r"[,;](?:[ \t]*+[,;])+")
_MARK_BEFORE_BRACKET = re.compile(r"(?<![,;])[,;][ \t]*+\)")


def _tidy_punctuation(text: str) -> str:
    """Close the gaps that removed markup leaves behind: "Albedo ( ; ) or" becomes "Albedo or"."""

    def text_follows(match: re.Match[str]) -> bool:
        return match.end() < len(match.string) and match.string[match.end()] not in " \n"

    text = _EMPTY_BRACKETS.sub("", text)
    text = _BRACKET_START.sub("(", text)
    text = _MARKS_IN_A_ROW.sub(lambda match: match[0] if text_follows(match) else match[0][0], text)
    text = _MARK_BEFORE_BRACKET.sub(")", text)
    return _SPACE_BEFORE_MARK.sub("", text)
