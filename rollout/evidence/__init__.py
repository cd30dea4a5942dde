"""What is known of a candidate, and how it grows: tests that stay valid however often one looks, in bounded memory."""

from rollout.evidence.columns import Columns, columns
from rollout.evidence.saved import evidence_of, plain
from rollout.evidence.state import (
    Evidence,
    fresh,
    next_stage,
    with_columns,
    with_pairs,
    with_reference,
    with_routed,
    with_samples,
)

__all__ = [
    "Columns",
    "Evidence",
    "columns",
    "evidence_of",
    "fresh",
    "next_stage",
    "plain",
    "with_columns",
    "with_pairs",
    "with_reference",
    "with_routed",
    "with_samples",
]
