"""Parts of an HTML page that needs no other file. Every value is escaped here."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: #fff; color: #1a1a1a;
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; break-after: avoid; }
.answer { font-size: 1.1rem; margin: .6rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; }
dd { margin: 0; }
dt, .note, figcaption, th, footer { color: #555; }
.note, figcaption, footer, table { font-size: .9rem; }
.warnings { border-left: .3rem solid #D55E00; background: #fdf3ec; padding: .5rem 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd;
  white-space: nowrap; }
figure { margin: 1.2rem 0; }
img { display: block; width: 100%; min-width: 30rem; height: auto; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; gap: 0; } }
@media print {
  body { max-width: none; padding: 0; font-size: 9.5pt; }
  .wide { overflow: visible; }
  img { min-width: 0; }
  th, td { white-space: normal; }
  figure, tr, .warnings { break-inside: avoid; }
}
"""


def page(title: str, parts: Iterable[str], footer: str) -> str:
    """A whole page of parts that are HTML already."""
    body = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
<footer>{escape(footer)}</footer>
</body>
</html>
"""


def heading(text: str) -> str:
    """The heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, kind: str = "note") -> str:
    """A paragraph of the kind `note` (small print) or `answer`."""
    unbroken = escape(text).replace(" ± ", "\u00a0±\u00a0")
    return f'<p class="{kind}">{unbroken}</p>'


def definitions(values: dict[str, str]) -> str:
    """Names and values, one below the other."""
    lines = (f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in values.items())
    return f"<dl>{''.join(lines)}</dl>"


def warning_box(title: str, lines: Sequence[str]) -> str:
    """A box of warnings; nothing if there are none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    box = f'<div class="warnings"><strong>{escape(title)}</strong><ul>{items}</ul></div>'
    return box if lines else ""


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways where the screen is narrow."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = ("".join(f"<td>{escape(value)}</td>" for value in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0">{table}</div>'


def image(path: Path, caption: str, alt: str) -> str:
    """A PNG file, held inside the page, with its caption and alternative text."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<figure><div class="wide" tabindex="0"><img src="data:image/png;base64,{data}" '
        f'alt="{escape(alt)}"></div><figcaption>{escape(caption)}</figcaption></figure>'
    )
