"""The report as one HTML page that needs nothing else: no script, no font, no address."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from loadtest.port import LoadPlan, LoadReport
from loadtest.report import put


def write_page(
    plan: LoadPlan, report: LoadReport, samples: Sequence[dict[str, Any]], seconds: Sequence[dict[str, float]]
) -> None:
    """Write the page to ``report.page``."""
    put(Path(report.page), render(plan, report, samples, seconds))


def render(
    plan: LoadPlan, report: LoadReport, samples: Sequence[dict[str, Any]], seconds: Sequence[dict[str, float]]
) -> str:
    """The page's text. All that came from a server (errors) is escaped; only our own plots are not."""
    from loadtest.figures import draw_all, svg  # here: matplotlib takes half a second to load

    plots = [(title, Markup(svg(figure))) for title, figure in draw_all(samples, seconds)]
    return _template().render(plan=plan, report=report, rows=_rows(report), plots=plots, facts=_facts(plan, report))


@cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("page.html")


def _facts(plan: LoadPlan, report: LoadReport) -> list[tuple[str, str]]:
    """The large numbers at the top: value and what it is."""
    share = f" ({report.failed / report.requests:.1%})" if report.failed else ""
    return [
        (f"{report.requests:,}", "requests"),
        (f"{report.failed:,}{share}", f"failed, {report.cut:,} of them cut"),
        (f"{report.requests_per_s:.3g}", "requests/s"),
        (f"{report.tokens_per_s:,.4g}", "output tokens/s"),
        (f"{report.seconds:.3g} s", f"with {plan.users} user{'s' if plan.users > 1 else ''}"),
    ]


def _rows(report: LoadReport) -> list[tuple[str, list[str]]]:
    """Name and cells (ms) of each line of the quantile table."""
    names = (("TTFT", report.ttft), ("TPOT", report.tpot), ("E2E", report.e2e))
    return [
        (name, [f"{v * 1000:,.1f}" for v in (q.p50, q.p90, q.p95, q.p99, q.mean)] + [f"{q.n:,}"])
        if q
        else (name, ["–"] * 5 + ["0"])
        for name, q in names
    ]
