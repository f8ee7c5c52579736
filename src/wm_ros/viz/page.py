"""Pieces of a self-contained page: text in, HTML out. No piece refers to anything outside of the file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from wm_ros.viz.theme import DARK, LIGHT, variables

STYLE = f"""
:root {{ color-scheme: light dark; {variables(LIGHT)} --page: #f7f8fa; --card: #ffffff; }}
@media (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)} --page: #12161d; --card: #1a2029; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }}
main {{ max-width: 1040px; margin: 0 auto; padding: 32px 20px 60px; }}
h1 {{ font-size: 27px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }}
h2 {{ font-size: 17px; margin: 0 0 2px; }}
p {{ margin: 4px 0 12px; color: var(--muted); max-width: 100ch; }}
p.lead {{ font-size: 16px; margin-bottom: 20px; }}
code, td.mono {{ font: 13px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }}
section {{ background: var(--card); border: 1px solid var(--grid); border-radius: 12px; padding: 18px 20px; margin: 16px 0; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }}
.tile {{ background: var(--card); border: 1px solid var(--grid); border-radius: 12px; padding: 12px 16px; }}
.tile b {{ display: block; font-size: 25px; line-height: 1.25; font-variant-numeric: tabular-nums; letter-spacing: -0.02em; }}
.tile b small {{ font-size: 14px; font-weight: 500; color: var(--muted); }}
.tile span {{ color: var(--muted); font-size: 13px; }}
svg {{ display: block; width: 100%; height: auto; }}
svg text {{ font-family: inherit; }}
img {{ display: block; width: 100%; max-width: 720px; margin: 0 auto; border-radius: 8px; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
.scroll {{ overflow-x: auto; }}
th, td {{ text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--grid); white-space: nowrap; }}
th {{ color: var(--muted); font-weight: 500; font-size: 13px; }}
th:first-child, td:first-child, table.facts td {{ text-align: left; }}
table.facts td {{ white-space: normal; vertical-align: top; }}
table.facts td:first-child {{ color: var(--muted); width: 220px; }}
tr:last-child td {{ border-bottom: 0; }}
ul.remarks {{ margin: 6px 0 0; padding-left: 20px; color: var(--muted); }}
.missing {{ border-left: 3px solid var(--limit); padding-left: 12px; margin: 8px 0; }}
canvas {{ display: block; width: 100%; }}
.controls {{ display: flex; gap: 12px; align-items: center; margin-top: 8px; }}
.controls input {{ flex: 1; accent-color: var(--plan); }}
.controls output {{ color: var(--muted); font-size: 13px; min-width: 150px; text-align: right; font-variant-numeric: tabular-nums; }}
button {{ font: inherit; font-size: 13px; width: 70px; color: var(--ink); background: none; }}
button {{ border: 1px solid var(--grid); border-radius: 8px; }}
"""


def page(title: str, body: str) -> str:
    """A whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Says to the browser what the file promises: nothing is fetched, from anywhere.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def heading(title: str, lead: str) -> str:
    """What the page is about."""
    return f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>'


def section(title: str, text: str, content: str) -> str:
    """A titled card; `content` is HTML, the rest is text."""
    return f"<section><h2>{escape(title)}</h2><p>{escape(text)}</p>{content}</section>"


def tiles(figures: Sequence[tuple[str, str, str]]) -> str:
    """Key figures: (value, unit, what it is)."""
    cells = (f'<div class="tile"><b>{escape(v)} <small>{escape(u)}</small></b><span>{escape(w)}</span></div>' for v, u, w in figures)
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of figures."""
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """A table of names and values."""
    return f'<table class="facts">{"".join(f"<tr><td>{escape(n)}</td><td class=mono>{escape(v)}</td></tr>" for n, v in rows)}</table>'


def missing(text: str) -> str:
    """Says what is not there, where it would have been."""
    return f'<p class="missing">{escape(text)}</p>'


def remarks(lines: Sequence[str]) -> str:
    """A list of lines."""
    return f'<ul class="remarks">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def image(data: bytes, mime: str, label: str) -> str:
    """A picture, inside the page."""
    return f'<img alt="{escape(label)}" src="data:{mime};base64,{base64.b64encode(data).decode()}">'
