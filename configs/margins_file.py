"""The bounds in ``configs/rollouts/<name>.yaml``: from where on a difference is harm, and up to where it is allowed."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from configs.load import Config
from rollout.agreement_limits import OutputLimits
from rollout.policy import ErrorMargin, Margin, Objectives, Policy

Ratio = Annotated[float, Field(gt=1, le=100)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class Documented(Config):
    """Base of models whose fields are explained in an editor: the text under a field is its description."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class MarginFile(Documented):
    """Bounds on a latency's ratio, candidate over stable, among like requests. `harm` <= `allow`."""

    harm: Ratio = 1.1
    """Proven more than so many times slower: roll back."""
    allow: Ratio = 1.25
    """Proven less than so many times slower: good."""

    def margin(self) -> Margin:
        """As the core knows it."""
        return Margin(self.harm, self.allow)


class ErrorMarginFile(Documented):
    """Bounds on counted events."""

    harm_ratio: Ratio = 1.25
    """Proven more than so many times stable's rate: roll back. Proven less: good."""
    allow_percent: Annotated[float, Field(gt=0, lt=100)] = 1.0
    """Good too, whatever the ratio: proven to add less than this share of the requests to stable's rate, in percent."""

    def margin(self) -> ErrorMargin:
        """As the core knows it."""
        return ErrorMargin(self.harm_ratio, self.allow_percent / 100)


class MarginsFile(Documented):
    """One bound for each metric; null: it is not judged. Errors always are."""

    ttft: MarginFile | None = MarginFile()
    """Time to the first token, of streamed answers."""
    tpot: MarginFile | None = MarginFile()
    """Time per output token after the first."""
    e2e: MarginFile | None = None
    """The whole request, among answers of the same length."""
    errors: ErrorMarginFile = ErrorMarginFile()
    """5xx, timeouts, cut, empty and malformed answers."""
    refusals: ErrorMarginFile | None = ErrorMarginFile()
    """429, 450 and 503: the version had no room."""
    goodput: ErrorMarginFile = ErrorMarginFile(allow_percent=Policy.goodput.allow * 100)
    """Requests that miss the objectives. Judged where there are `objectives`."""
    abandoned: Annotated[float, Field(ge=0, le=100)] = Policy.abandoned
    """Clients that leave before the answer's end, proven so many times stable's rate: roll back. 0: not judged."""


class ObjectivesFile(Documented):
    """What the service promises of each request, seconds; null: nothing. A request that keeps all of it is goodput."""

    ttft_s: Seconds | None = None
    """First token within, seconds."""
    tpot_s: Seconds | None = None
    """Each further token within, seconds."""
    e2e_s: Seconds | None = None
    """Whole answer within, seconds."""

    def objectives(self) -> Objectives:
        """As the core knows it."""
        return Objectives(**self.model_dump())


Bound = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, lt=1)]


class OutputsFile(Documented):
    """What answers may differ by. Proven beyond a `harm`: roll back; within every `allow`: good; two zeros: off."""

    perplexity_harm: Bound = OutputLimits.perplexity_harm
    """Perplexity of the right answers per token, candidate's over stable's: harm beyond it."""
    perplexity_allow: Bound = OutputLimits.perplexity_allow
    """The same ratio: good within it."""
    defects_harm: Share = OutputLimits.defects_harm
    """Share of answers that only the candidate spoils, less those that only stable spoils: harm beyond it."""
    defects_allow: Share = OutputLimits.defects_allow
    """The same share: good within it."""
    length_harm: Bound = OutputLimits.length_harm
    """Mean length of the answers over stable's, or its inverse: harm beyond it."""
    length_allow: Bound = OutputLimits.length_allow
    """The same ratio: good within it."""
    same_harm: Share = OutputLimits.same_harm
    """Mean share of equal tokens in greedy answers: harm below it."""
    same_allow: Share = OutputLimits.same_allow
    """The same share: good above it."""
    budget_s: Annotated[float, Field(ge=1, le=86_400)] = OutputLimits.budget_s
    """Seconds that asking both engines may take before users; it ends sooner once the answer is known."""

    def limits(self) -> OutputLimits:
        """As the core knows it. Raises Refused."""
        return OutputLimits(**self.model_dump())


class AutoFile(Documented):
    """Computed steps: as fast as possible while at most so many requests suffer before harm is found."""

    most_harmed: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """Requests that a harmful candidate may serve before it is found."""
    first_percent: Annotated[float, Field(gt=0, le=99.9)] = 1.0
    """The first step's share of live traffic."""
    largest_percent: Annotated[float, Field(gt=0, le=99.9)] = 50.0
    """The largest step's share of live traffic."""
