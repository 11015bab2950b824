"""The parts of an HTML page that needs no other file. Every value is escaped here."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: #fff; color: #1a1a1a;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; }
dt { color: #555; }
dd { margin: 0; overflow-wrap: anywhere; }
.note, figcaption { color: #555; font-size: .9rem; margin: .3rem 0; }
.warnings { border-left: .3rem solid #D55E00; background: #fdf3ec; padding: .5rem 1rem;
            margin: 1.2rem 0; overflow-wrap: anywhere; }
.warnings ul { margin: .2rem 0; padding-left: 1.1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd;
         white-space: nowrap; }
th { color: #555; font-weight: 600; }
figure { margin: 1.2rem 0; }
img { display: block; width: 100%; height: auto; }
footer { margin-top: 2.5rem; color: #555; font-size: .85rem; }
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


def note(text: str) -> str:
    """A sentence in small print."""
    return f'<p class="note">{escape(text)}</p>'


def pairs(values: dict[str, str]) -> str:
    """Names and values, one below the other."""
    lines = (f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in values.items())
    return f"<dl>{''.join(lines)}</dl>"


def warning_box(lines: Sequence[str]) -> str:
    """A box of warnings."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="warnings"><strong>Read with care</strong><ul>{items}</ul></div>'


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways where the screen is narrow."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(value)}</td>' for value in row)}</tr>" for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def image(path: Path, caption: str) -> str:
    """A PNG file, held inside the page, with its caption."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
