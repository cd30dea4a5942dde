"""What is measured, in words for a person."""

from __future__ import annotations

from store.telling import warm_up_told


def test_a_warm_up_is_one_line_with_first_and_settled_times():
    """By length of the prompt, shortest first; TPOT where there was more than one token."""
    numbers = {"requests": 9.0, "seconds": 2.5, "settled": 1.0}
    numbers |= {"p512_ttft_first_s": 1.2, "p512_ttft_s": 0.25, "p8_ttft_first_s": 0.31, "p8_ttft_s": 0.021}
    assert warm_up_told({**numbers, "p8_tpot_s": 0.011}) == (
        "9 requests in 2.5 s, settled; TTFT of 8 tokens 310 -> 21 ms, TPOT 11 ms; TTFT of 512 tokens 1200 -> 250 ms"
    )


def test_numbers_of_an_older_agent_are_told_as_far_as_they_go():
    """Only how many requests, and that it did not settle; nothing before a warm-up."""
    assert warm_up_told({"requests": 4.0}) == "4 requests, not settled"
    assert warm_up_told({}) == ""
