"""Where trtllm-serve tells its numbers, by version: a Prometheus page, and a JSON list of iterations.

Until 1.3.0rc5 the Prometheus page has neither queue nor cache: they are in the iterations alone. That list is emptied
by reading, so it has one reader; of a list the last entry counts. ``a/b`` is a quotient.
"""

from __future__ import annotations

from engines.port import MetricsPage
from engines.trtllm.contract import Contract

PROMETHEUS, ITERATIONS = "/prometheus/metrics", "/metrics"


def pages(contract: Contract) -> tuple[MetricsPage, ...]:
    """Both pages; a number that both have is read from the first alone."""
    counted = dict(contract.metrics["prometheus"])
    told = {ours: name for ours, name in contract.metrics["iterations"].items() if ours not in counted}
    return MetricsPage(PROMETHEUS, counted), MetricsPage(ITERATIONS, told, "json")
