"""Pages of the documentation site that are kept outside docs/, for mkdocs (see mkdocs.yml).

README.md, CONTRIBUTING.md and the like belong where a code host looks for them. Here they become
pages of the site, and links between them and docs/ are rewritten for the place that each has there.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "lpx/data/demo/LICENSE.md": "demo-licence.md",
}
"""File in the repository -> page of the site."""

_LINK = re.compile(r"\]\(([^)\s#:]+)((?:#[^)\s]*)?)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for path, page in PAGES.items():
        text = rewrite_links((ROOT / path).read_text(encoding="utf-8"), path, page)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Rewrite the links of a page from docs/ that lead out of docs/."""
    if page.file.generated_by is not None:
        return markdown
    return rewrite_links(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def rewrite_links(text: str, path: str, page: str) -> str:
    """Return Markdown whose relative links fit the site.

    Args:
        text: Markdown of a file in the repository.
        path: Where the file is, from the root of the repository.
        page: Where its page is, from the root of the site.
    """

    def rewritten(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
        # What is neither one of PAGES nor in docs/ is left as it is: mkdocs then names the link.
        if target in PAGES:
            target = PAGES[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            return match[0]
        return f"]({posixpath.relpath(target, posixpath.dirname(page) or '.')}{match[2]})"

    return _LINK.sub(rewritten, text)
