"""What vetoes were answered is kept, look by look, and costs no release anything."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from configs.order import order
from configs.stack import Stack
from reports.vetoes_file import FILE, VetoFile
from rollout.nouns import Outcome
from rollout.policy import Policy, Veto
from tasks.ticket import Ticket
from tasks.vetoes import ASK_EVERY_S, vetoes_of

POLICY = Policy(vetoes=(Veto("gpu", 'temp{version="$candidate"}', above=80), Veto("up", "up", below=1)))


def asking(home: Path, free_port: int, policy: Policy = POLICY):
    """What asks a Prometheus that is not there."""
    address = f"http://127.0.0.1:{free_port}"
    wanted = replace(order("chat"), policy=policy, stack=Stack(project=home, home=home), prometheus=address)
    return vetoes_of(wanted, Ticket("chat-1", "chat", 1, os.getpid()), 2, {})


def test_each_asking_is_kept_with_its_queries(tmp_path, free_port):
    """As the policy writes them; of what was not answered, why; each stage's beginning; nothing between two askings."""
    for begin in (0.0, 100.0):
        ask = asking(tmp_path, free_port)
        for at in (begin, begin + ASK_EVERY_S / 2, begin + ASK_EVERY_S):
            ask(at)
    kept = list(VetoFile(tmp_path / "reports" / "chat-1" / FILE))
    assert [(r.at, r.begins) for r in kept] == [(0, True), (3, False), (100, True), (103, False)]
    assert all(list(r.by_query) == [veto.query for veto in POLICY.vetoes] for r in kept)
    assert "does not answer" in kept[0].by_query["up"].missing


def test_without_vetoes_nothing_is_kept(tmp_path, free_port):
    """No file."""
    assert asking(tmp_path, free_port, Policy())(0.0) == () and not (tmp_path / "reports").exists()


def test_a_record_that_cannot_be_written_ends_no_release(tmp_path, free_port):
    """The findings are what they would be."""
    (tmp_path / "reports").write_text("a file where a folder should be")
    assert [f.outcome for f in asking(tmp_path, free_port)(0.0)] == [Outcome.UNDECIDED] * 2
