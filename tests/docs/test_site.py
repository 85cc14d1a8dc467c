"""The documentation, the Makefile and the files for contributors hold together.

`make docs` builds the site strictly. These tests need none of its packages, and look also at what
is not part of the site, such as links from README to files of the repository.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OUTSIDE = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "lpx/data/demo/LICENSE.md"]
PAGES = [*(ROOT / name for name in OUTSIDE), *sorted(DOCS.rglob("*.md"))]
README_LINES = 120

_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def links(page: Path) -> list[str]:
    """Targets of a page's links, but those to other sites."""
    targets = _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8")))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as code hosts and mkdocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles]
    return {re.sub(r"\s", "-", word) for word in words}


def nav_pages(entries: list[object]) -> list[str]:
    """Every page that a navigation of mkdocs names, sections within sections included."""
    pages = []
    for entry in entries:
        target = next(iter(entry.values())) if isinstance(entry, dict) else entry
        pages += nav_pages(target) if isinstance(target, list) else [str(target)]
    return pages


@pytest.fixture(scope="module")
def site():
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_to_files_and_headings(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{relative(page)}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{relative(page)}: {target}"


def test_every_page_is_in_the_navigation(site):
    named = nav_pages(site["nav"])
    assert len(named) == len(set(named))
    # tools/site_pages.py makes pages of files outside docs/.
    made = set(re.findall(r'": "(\S+\.md)"', (ROOT / "tools/site_pages.py").read_text("utf-8")))
    assert set(named) == made | {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


def test_reference_names_modules_that_exist():
    for page in (DOCS / "reference").glob("*.md"):
        for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            parts = name.split(".")
            places = [ROOT.joinpath(*parts[:end]) for end in range(len(parts), 1, -1)]
            found = any(p.with_suffix(".py").is_file() or p.is_dir() for p in places[:2])
            assert found, f"{relative(page)}: {name}"


def test_readme_is_an_introduction():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= README_LINES
    assert {"make demo", "make test"} <= set(lines)


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert set(phony[1].split()) == targets
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r"make (\w+) +\S", shown.stdout)) == targets
    default = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert default.stdout == shown.stdout


def test_citation_names_the_paper_and_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    (paper,) = citation["references"]
    assert paper["type"] == "conference-paper"
    assert paper["doi"] in (DOCS / "science.md").read_text(encoding="utf-8")
    assert paper["title"] in (DOCS / "science.md").read_text(encoding="utf-8")


def test_one_version_everywhere():
    # As the release workflow does, before anything is installed.
    command = [sys.executable, "tools/check_version.py"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    "name", [".pre-commit-config.yaml", ".github/workflows/ci.yml", ".github/workflows/release.yml"]
)
def test_configuration_can_be_read(name):
    assert isinstance(yaml.safe_load((ROOT / name).read_text(encoding="utf-8")), dict)


def test_changelog_begins_with_what_is_unreleased():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert sections[0] == "Unreleased"
    for section in sections[1:]:
        assert re.fullmatch(r"\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)", section), section


def test_constraints_pin_what_the_docs_are_built_with():
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for package in ("mkdocs", "mkdocs-material", "mkdocstrings-python"):
        assert re.search(rf"^{package}==", pinned, re.MULTILINE), package
