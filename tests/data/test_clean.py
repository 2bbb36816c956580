"""Cleaning: each rule on the smallest text that shows it, and hostile markup in linear time."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.data.clean import clean


@pytest.mark.parametrize(
    ("markup", "prose"),
    [
        ("'''Albedo''' is ''white''.", "Albedo is white."),
        ("[[Latin]] [[black body|bodies]] [[:Category:Art|art]]", "Latin bodies art"),
        ("Text.[[File:A.png|thumb|a [[nested]] caption]] More.", "Text. More."),
        ("Text.\n[[Category:Physics]]\n[[fr:Albédo]]", "Text."),
        ("A{{cite web|url=http://x|title={{lang|fr|b}}}}B", "AB"),
        ("{{convert|5|km|mi}} long, {{convert|3|to|4|mi|km}} wide", "5 km long, 3 to 4 miles wide"),
        ("Called {{lang|fr|le chat}} {{as of|2008}}.", "Called le chat As of 2008."),
        ("{{quote|To be, or not to be|Hamlet}}", "To be, or not to be"),
        ("0.3<ref name=a>Book, 2003</ref> and 0.4<ref name=b /> too", "0.3 and 0.4 too"),
        ("before<!-- a {{comment}} -->after", "beforeafter"),
        ("Text\n{| class=a\n! head\n|-\n| cell || {{nowrap|x}}\n{|\n| inner\n|}\n|}\nmore", "Text\n\nmore"),
        ("see [http://example.org the site] and [https://x.org]", "see the site and"),
        ("* one\n** two\n# three\n: indented\n; term", "- one\n- two\n- three\nindented\nterm"),
        ("10<sup>5</sup> m<sub>2</sub> x<sup>th</sup>", "10^5 m2 xth"),
        ("where <math>n = 3</math> and <math>\\frac{1}{2}</math>.", "where n = 3 and."),
        ("15&nbsp;°C &amp; {{ndash}} x", "15 °C & \u2013 x"),
        ("'''Ada''' ({{IPAc-en|e}}; born 1815) or ({{lang-la}}), x", "Ada (born 1815) or, x"),
        ("it''''s''' here", "it's here"),
        ("__NOTOC__Text", "Text"),
    ],
)  # fmt: skip
def test_wiki_markup_becomes_prose(markup: str, prose: str) -> None:
    assert clean(markup, "wiki") == prose


def test_wiki_headings_stay_as_lines_unless_their_section_holds_no_prose() -> None:
    page = (
        "Lead.\n== History ==\nOld.\n=== Empty ===\n== References ==\n* Book\n=== Cited ===\nX\n"
        "== Legacy ==\nNew."
    )
    assert clean(page, "wiki") == "Lead.\n\nHistory\n\nOld.\n\nLegacy\n\nNew."


def test_wiki_brackets_that_are_never_closed_keep_the_text_behind_them() -> None:
    assert clean("a {{open b [[link c", "wiki") == "a open b link c"
    assert clean("a }} b ]] c", "wiki") == "a b c"
    assert clean("a {{t [[x}} b]] c", "wiki") == "a b c"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>One<p>Two <b>bold</b>", "One\n\nTwo bold"),
        ("<html><head><title>t</title></head><body>B<script>if (a<b) x()</script></body>", "B"),
        ("<ul><li>a<li>b</ul>", "- a\n- b"),
        ("a<br>b &lt;c&gt; &amp; d", "a\nb <c> & d"),
        ('<img alt="a > b">text<!-- <p> -->', "text"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<style>p {}", "p {}"),
    ],
)
def test_html_becomes_text(page: str, text: str) -> None:
    assert clean(page, "html") == text


def test_plain_text_keeps_its_spaces_but_loses_control_characters() -> None:
    assert clean("a  b\r\n\x00c\u200bd\te\u0301\n") == "a  b\ncd\té\n"


@given(st.text())
def test_cleaning_plain_text_twice_changes_nothing(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@given(st.text(alphabet="{}[]|<>!-='*#: \nabref/\"&;", max_size=200))
def test_wiki_and_html_never_fail_and_leave_no_brackets(text: str) -> None:
    assert "{{" not in clean(text, "wiki")
    assert "[[" not in clean(text, "wiki")
    clean(text, "html")


HOSTILE = (
    "{{", "}}", "{{a|", "[[", "[[a|", "[[a", "{|\n", "\n{|", "\n |}", "<!--", "<ref>", "<ref", "<a ",
    "<a b=\"", "<a b='x", "</ref ", "[http://a ", "[http:", "'", "''' ", "=", "\n==a", "==a==\n", "=a",
    "__A", "( ", "(", " ,", ", ", ",;", "\n\n\n ", " \t", "&amp", "&#", "* ", "\n*", ":{|", "-",
    "<math>", "<sup>", "{{nowrap|a", "{{quote|{{lang|x|", "[[[", "{{{",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["wiki", "html"])
def test_hostile_markup_is_cleaned_in_linear_time(kind: str) -> None:
    for piece in HOSTILE:
        for text in (piece * (60_000 // len(piece)), piece * 4000 + "}}" * 4000 + "]]" * 4000):
            start = time.process_time()
            clean(text, kind)  # type: ignore[arg-type]
            assert time.process_time() - start < 1.5, (piece, len(text))
