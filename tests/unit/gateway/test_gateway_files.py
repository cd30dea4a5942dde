"""The files of the gateway: put whole, locked, saved and read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from gateway_states import everything

from gateway import files, saved
from gateway.command import envoy_command, write_bootstrap
from gateway.port import EnvoySettings
from gateway.render import RDS, Layout
from rollout.errors import Conflict, Refused, Unavailable


def test_a_saved_state_comes_back() -> None:
    """The confirmed state is the same after a restart, its lease and its number too; tokens are not in it."""
    held = saved.Saved(7, 1.5, everything())
    back = saved.from_json(files.parsed(files.as_json(saved.to_json(held))))
    assert back == saved.Saved(7, 1.5, saved.without_tokens(everything()))


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b'{"revision": 1}', b'{"revision": 1, "at": 0, "state": 7}']
)
def test_a_broken_saved_state_counts_as_none(content: bytes | None) -> None:
    """A lost or damaged file costs a validation by the binary, no more."""
    assert saved.from_json(files.parsed(content)) is None


def test_files_are_put_whole_and_private(tmp_path: Path) -> None:
    """A put file is complete, readable by its owner alone, and leaves nothing beside it."""
    for content in (b"old", b"new"):
        files.put(tmp_path / "f", content)
        assert (tmp_path / "f").read_bytes() == content
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    """Who does not get the lock in time is told; it is free again afterwards."""
    with files.locked(tmp_path / "lock", 1.0):
        with pytest.raises(Conflict):
            with files.locked(tmp_path / "lock", 0.0):
                pass
    with files.locked(tmp_path / "lock", 0.0):
        assert (tmp_path / "lock").exists()


def test_a_lock_needs_its_folder(tmp_path: Path) -> None:
    """Before the gateway was ever started a change is Unavailable, not a crash."""
    with pytest.raises(Unavailable):
        with files.locked(tmp_path / "none" / "lock", 0.0):
            pass


def test_a_second_start_keeps_what_was_confirmed(tmp_path: Path) -> None:
    """Laying out the folder again leaves routes alone and makes folders private."""
    settings = EnvoySettings(directory=str(tmp_path / "gw"))
    layout = Layout.of(settings)
    write_bootstrap(settings)
    (layout.xds / RDS).write_text('{"resources":[],"version_info":"confirmed"}')
    write_bootstrap(settings)
    assert "confirmed" in (layout.xds / RDS).read_text()
    assert {p.stat().st_mode & 0o777 for p in (layout.root, layout.xds, layout.run)} == {0o700}


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"resources": 7}'])
def test_a_start_mends_what_a_crash_broke(tmp_path: Path, broken: str) -> None:
    """A file that a loss of power left empty or in part is made again from the confirmed state."""
    settings = EnvoySettings(directory=str(tmp_path / "gw"))
    layout = Layout.of(settings)
    write_bootstrap(settings)
    files.put(layout.confirmed, files.as_json(saved.to_json(saved.Saved(3, 0.0, everything()))))
    (layout.xds / RDS).write_text(broken)
    write_bootstrap(settings)
    assert "chat/stable" in (layout.xds / RDS).read_text()


def test_a_folder_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    """The admin socket's path has a limit, which is told before Envoy would fail on it."""
    with pytest.raises(Refused, match=r"gateway\.directory"):
        write_bootstrap(EnvoySettings(directory=str(tmp_path / ("x" * 90))))


def test_envoy_is_a_plain_child() -> None:
    """The command line names its files absolutely and leaves hot restart off."""
    command = envoy_command(EnvoySettings(directory="gw"))
    assert "--disable-hot-restart" in command
    assert Path(command[command.index("-c") + 1]).is_absolute()
