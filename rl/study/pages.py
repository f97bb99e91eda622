"""Pieces of a report: HTML that opens offline, with its style and its pictures inside."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

CSS = """
body{font:16px/1.55 system-ui,sans-serif;color:#222;max-width:1120px;margin:2rem auto;padding:0 1.2rem}
h1{margin-bottom:.2rem}h2{margin-top:2.4rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;font-size:14px;margin:.6rem 0}th{color:#666;font-weight:600}
td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #eee}td:first-child,th:first-child{text-align:left}
img{max-width:100%}.note{color:#666;font-size:14px}.best{font-weight:700}li{margin:.3rem 0}
"""


def page(title: str, sections: Sequence[str]) -> str:
    """A whole HTML file of sections that are HTML already."""
    head = f"<meta charset=utf-8><title>{html.escape(title)}</title><style>{CSS}</style>"
    return f"<!doctype html><html lang=en>{head}<body>{''.join(sections)}</body></html>\n"


def image(path: Path) -> str:
    """A PNG file as part of the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"></p>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; cells are HTML already, the header is text."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def bullets(lines: Sequence[str], kind: str = "") -> str:
    """A list; items are HTML already."""
    return f"<ul{f' class={kind}' if kind else ''}>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"
