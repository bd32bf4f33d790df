"""What MkDocs cannot know: where a bundle's README went, and what Sphinx's roles in docstrings mean."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_INCLUDED = re.compile(r'include-markdown "(?:\.\./)+(bundles/[^"]+)"')
_LINK = re.compile(r"\]\((?:\.\./)+(bundles/\w+/docs/README\.md)")
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>(~?)([\w.]+)</code>")
_pages: dict[str, str] = {}


def on_files(files: Any, **_: Any) -> None:
    """Note which page includes which README."""
    for file in files.documentation_pages():
        _pages.update((readme, file.src_uri) for readme in _INCLUDED.findall(file.content_string))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to a bundle's README lead to the page that includes it; in the repository they lead to the file."""
    folder = posixpath.dirname(page.file.src_uri)
    return _LINK.sub(lambda link: f"]({posixpath.relpath(_pages[link[1]], folder)}", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Roles become names, with a link where the name is documented."""

    def linked(role: re.Match) -> str:
        short = role[2].rpartition(".")[2] if role[1] else role[2]
        return f'<autoref optional identifier="{role[2]}"><code>{short}</code></autoref>'

    return _ROLE.sub(linked, html)
