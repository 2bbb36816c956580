"""Pages that need no network: jinja2's template, plotly's script inside, and a policy that forbids everything else."""

import base64
import hashlib
from pathlib import Path

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: object) -> str:
    """Return the page that a template makes of these values and of `plotly`, `drawing` and `policy`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plotly = script(get_plotlyjs())
    drawing = script((TEMPLATES / "report.js").read_text(encoding="utf-8"))
    policy = (
        f"default-src 'none'; script-src {script_hash(plotly)} {script_hash(drawing)}; "
        "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    page = environment.get_template(template)
    return page.render(plotly=plotly, drawing=drawing, policy=policy, **values)


def script(source: str) -> Markup:
    """Mark our own script as safe to stand in the page; a browser hashes it with plain line ends."""
    assert "</script" not in source.lower()
    assert "<!--" not in source
    return Markup(source.replace("\r\n", "\n").replace("\r", "\n"))


def script_hash(source: str) -> Markup:
    """Return what a content security policy calls an inline script by."""
    digest = hashlib.sha256(source.encode("utf-8")).digest()
    return Markup(f"'sha256-{base64.b64encode(digest).decode('ascii')}'")
