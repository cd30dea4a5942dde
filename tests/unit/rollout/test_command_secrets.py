"""What may leave a process: its output without the secrets of its environment."""

from __future__ import annotations

import pytest

from rollout.command import MaskedLines, masked, secrets_of

SECRET = "hf_abcdefgh"


def test_secrets_are_values_of_names_that_sound_so_and_passwords_of_urls() -> None:
    """Longest first; what is short is no secret that could be masked without masking plain words."""
    environment = {
        "API_KEY": "0123456789",
        "MONKEY": "0123456789x",
        "A_TOKEN": "short",
        "DATABASE_URL": "postgres://u:pass-of-the-db@h/d",
        "PRIVATE_KEY": "first line of it\nsecond line",
    }
    assert secrets_of(environment) == ("first line of it", "pass-of-the-db", "second line", "0123456789")
    assert "short" in secrets_of(environment, shortest=4)


@pytest.mark.parametrize("size", range(1, 20))
def test_a_secret_is_masked_over_any_division(size: int) -> None:
    """However the output comes in pieces, it is whole, without the secret."""
    text, lines = f"a {SECRET}\rb\n{SECRET}".encode(), MaskedLines((SECRET,))
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert b"".join([*map(lines.more, pieces), lines.rest()]) == b"a ***\rb\n***"


def test_a_line_without_end_is_not_held_forever() -> None:
    """Very long lines are passed on, masked too at the places where they are divided."""
    lines = MaskedLines((SECRET,))
    passed = [lines.more(piece) for piece in [b"x" * 70_000 + SECRET[:5].encode(), SECRET[5:].encode() + b"y" * 70_000]]
    assert len(passed[0]) >= 70_000 - len(SECRET)
    assert b"".join([*passed, lines.rest()]) == b"x" * 70_000 + b"***" + b"y" * 70_000


def test_a_text_is_masked() -> None:
    """Each time that it stands there."""
    assert masked(f"{SECRET}, {SECRET}", (SECRET,)) == "***, ***"
