"""The record of a release as one HTML page that needs nothing else: no script, no font, no address."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from reports.explain import (
    COLUMNS,
    WORST_COLUMNS,
    amount,
    decision,
    example_rows,
    facts,
    finding_rows,
    latency_rows,
    outlook,
    worst_rows,
)
from reports.files import put

PAGE = "page.html"  #: of the template here, and of a release's page in its folder
_LONGEST = 4000  # characters of an answer that are shown


def write_page(record: Mapping[str, Any], path: Path) -> Path:
    """Write the page; its path. Raises OSError."""
    return put(path, render(record))


def render(record: Mapping[str, Any]) -> str:
    """The page's text. All words of models, users and servers are escaped; only our own charts are not."""
    from reports.charts import charts  # here: matplotlib takes half a second to load

    return _template().render(
        record=record,
        decision=decision(record),
        outlook=outlook(record),
        charts=[(title, Markup(chart)) for title, chart in charts(record)],
        facts=facts(record),
        columns=COLUMNS,
        findings=finding_rows(record),
        distributions=latency_rows(record),
        worst_columns=WORST_COLUMNS,
        worst=worst_rows(record),
        examples=[{k: _cut(v) for k, v in row.items()} for row in example_rows(record)],
        stages=[(s["stage"], f"{s['candidate']:,}", f"{s['stable']:,}") for s in record["samples"]["stages"]],
        gpu=_gpu(record["gpu"] or {}),
        numbers=lambda values: [(name, amount(value)) for name, value in values.items()],
    )


@cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    env = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return env.get_template(PAGE)


def _gpu(use: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
    """What the GPUs did: a row a number, a column a phase, the names first."""
    names = list(dict.fromkeys(name for numbers in use.values() for name in numbers))
    return [("", *use), *((name, *(amount(use[phase].get(name)) for phase in use)) for name in names)] if use else []


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text):,} characters)"
