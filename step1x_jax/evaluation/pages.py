"""Pages that need no server: one HTML file with its style, its script and its data inside.

They are opened from a disk (file://) as well as from any web server, and ask nobody for anything.
"""

import html
import json
from importlib import resources
from typing import Any

# Pictures are beside the page; nothing else may be loaded, and nothing can be sent anywhere.
_POLICY = (
    "default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline';"
    " script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


def render_page(name: str, title: str, data: Any) -> str:
    """A page from assets/NAME: page.html (its body), page.css and page.js.

    Args:
      name: of the folder, such as "evaluation/study".
      title: of the page, as plain text.
      data: JSON values, which the script finds in the element `data`. Whatever text they hold
        cannot end that element: they may be from strangers.

    Returns:
      The HTML file's text.
    """
    assets = resources.files("step1x_jax") / "assets" / name
    body, style, script = (
        (assets / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    values = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        values = values.replace(char, f"\\u{ord(char):04x}")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{html.escape(title)}</title>
<style>
{style}</style>
</head>
<body>
{body}<script type="application/json" id="data">{values}</script>
<script>
{script}</script>
</body>
</html>
"""
