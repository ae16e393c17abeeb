"""The documentation site builds without a warning and fetches nothing from anywhere but its own folder."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.assets import REPOSITORY

# What a browser fetches by itself; a link (a) is followed by the reader only.
_FETCHED = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
    "input": ("src",),
}
_EXTERNAL = re.compile(r"(https?:)?//", re.IGNORECASE)
_CSS = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])((?:https?:)?//[^'\")\s]+)", re.IGNORECASE)


def external_loads(page: str) -> list[str]:
    """Addresses outside the site that a browser showing `page` fetches."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            for name, value in attributes:
                address = (value or "").strip()
                if name in _FETCHED.get(tag, ()) and _EXTERNAL.match(address):
                    found.append(address)
                if name == "style":
                    found.extend(_CSS.findall(address))

    Reader().feed(page)
    inline = re.findall(r"<style[^>]*>(.*?)</style>", page, re.DOTALL)
    return found + [address for sheet in inline for address in _CSS.findall(sheet)]


def test_external_loads_are_seen() -> None:
    page = """<a href="https://a.org/x">x</a><link href="https://b.org/f.css"><script src=//c.org/s.js></script>
    <style>@import "https://d.org/g.css"; p { background: url(//e.org/i.png) }</style><img src="own.svg">"""
    assert external_loads(page) == [
        "https://b.org/f.css",
        "//c.org/s.js",
        "https://d.org/g.css",
        "//e.org/i.png",
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    loads = {str(page): external_loads(page.read_text()) for page in pages}
    loads |= {str(sheet): _CSS.findall(sheet.read_text()) for sheet in site.rglob("*.css")}
    assert not {path: found for path, found in loads.items() if found}
    # The theme's script would fetch a library for diagrams, and figures of a repository; no page asks for either.
    for page in pages:
        text = page.read_text()
        assert 'class="mermaid"' not in text
        assert 'data-md-component="source"' not in text


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    import pyllm

    text = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    described = {anchor.rpartition(".")[2] for anchor in re.findall(r'id="(pyllm\.[\w.]+)"', text)}
    for room in ("nn", "ops", "optim", "quantization", "training", "tokenizers", "generation"):
        missing = set(getattr(pyllm, room).__all__) - described
        assert not missing, f"pyllm.{room}"


def test_every_op_has_a_picture_and_every_page_a_place() -> None:
    navigation = (REPOSITORY / "mkdocs.yml").read_text()
    for page in (REPOSITORY / "docs").rglob("*.md"):
        assert f" {page.relative_to(REPOSITORY / 'docs').as_posix()}\n" in navigation, page.name
    for page in (REPOSITORY / "docs" / "ops").glob("*.md"):
        text = page.read_text()
        assert page.name == "index.md" or re.search(r"\n\n(    .+\n){3}", text), f"{page.name} has no picture"
