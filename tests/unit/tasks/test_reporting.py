"""What a release leaves behind: the evidence first, and the page where it can be drawn."""

from __future__ import annotations

import json
import math

import pytest

from reports.page import PAGE
from rollout.json_text import finite
from rollout.nouns import Phase
from store.port import Release, ServiceState, StoreSettings, open_store
from tasks.reporting import written

FINDING = {
    "metric": "veto errors",
    "outcome": "roll back",
    "stable": None,
    "candidate": math.inf,
    "low": None,
    "high": None,
    "margin": 0.1,
    "n_stable": 0,
    "n_candidate": 0,
    "sentence": "veto errors: inf, above 0.1",
    "kind": "rate",
}
EVIDENCE = finite(
    {"release": "chat-1", "service": "chat", "outcome": "rolled back", "reason": "it erred", "findings": [FINDING]}
)


@pytest.fixture
def store():
    """With that release in it."""
    store = open_store(StoreSettings("sqlite://"))
    store.put_service(ServiceState("chat"))
    store.begin_release(Release("chat-1", "chat", "models:/m/1", Phase.PENDING), 1e9, 60.0)
    return store


def test_the_evidence_is_kept_and_the_page_is_drawn(store, tmp_path):
    """In a folder that is not there yet, and without a warning."""
    warned = []
    record, page = written(store, EVIDENCE, tmp_path / "chat-1", warned.append)
    assert page == tmp_path / "chat-1" / PAGE and "veto errors" in page.read_text() and warned == []
    assert record["findings"] == store.release("chat-1").evidence["findings"] == EVIDENCE["findings"]
    assert json.loads((tmp_path / "chat-1" / "release.json").read_text()) == EVIDENCE


def test_what_cannot_be_read_or_drawn_fails_no_release(store, tmp_path):
    """Samples that are none, and a page that nothing can be written to: the evidence is kept, both are warned of."""
    folder, warned = tmp_path / "chat-1", []
    (folder / PAGE / "in the way").mkdir(parents=True)
    (folder / "samples.csv.gz").write_text("at,version")
    record, page = written(store, EVIDENCE, folder, warned.append)
    assert page is None and len(warned) == 2 and "samples.csv.gz" in warned[0] and "page" in warned[1]
    assert store.release("chat-1").evidence == EVIDENCE and record["reason"] == "it erred"


def test_a_folder_that_cannot_be_made_fails_no_release(store, tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "chat-1").write_text("")
    _, page = written(store, EVIDENCE, tmp_path / "chat-1", lambda told: None)
    assert page is None and store.release("chat-1").evidence == EVIDENCE
