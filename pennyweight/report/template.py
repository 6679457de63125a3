"""What the report's pages share: one style, and a template whose {{names}} are filled."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path


def filled(name: str, pieces: Mapping[str, str], path: Path) -> Path:
    """Write the page of this template; nothing in it is fetched when it is opened."""
    page = _read(name)
    for key, piece in {"style": style(), **pieces}.items():
        page = page.replace(f"{{{{{key}}}}}", piece)
    path.write_text(page, encoding="utf-8")
    return path


def style() -> str:
    return f"<style>\n{_read('style.css')}</style>"


def _read(name: str) -> str:
    return (resources.files("pennyweight.report") / name).read_text(encoding="utf-8")
