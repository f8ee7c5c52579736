"""Colors of the charts: fixed ones for pictures, and stand-ins that become CSS variables in pages."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Theme:
    """One color for each role, as hexadecimal RGB."""

    ink: str
    """Text and what really happened."""
    muted: str
    """Axes, ticks, second-rank text."""
    grid: str
    train: str
    evaluate: str
    plan: str
    limit: str
    """Deadlines and targets."""


LIGHT = Theme("#1b2330", "#667085", "#e4e7ec", "#2f74c0", "#d9730d", "#0f9488", "#c0392b")
DARK = Theme("#e6e9ef", "#98a2b3", "#2c3442", "#6cb0f5", "#f5a04c", "#3fd0c2", "#ff7b6b")

# Colors that nobody would draw with, so that each can be found in an SVG and replaced by its role.
STAND_INS = Theme(*(f"#0a0b0{i}" for i in range(len(fields(Theme)))))


def with_variables(svg: str) -> str:
    """Replaces every stand-in by `var(--role)`, so that the page's style decides, light or dark."""
    for role in fields(Theme):
        svg = svg.replace(getattr(STAND_INS, role.name), f"var(--{role.name})")
    return svg


def variables(theme: Theme) -> str:
    """The theme as CSS declarations."""
    return " ".join(f"--{role.name}: {getattr(theme, role.name)};" for role in fields(Theme))
