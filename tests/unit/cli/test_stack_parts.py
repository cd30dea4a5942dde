"""The stack's pure parts: environment, configuration, ports, words of the status."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from supervisor.options import UnhosedConfigParser

from cli.deployments import dead_runs, digest, heard, tail
from cli.parts import parts, render, settings_text
from cli.preparing import key, only_one, prepare, require_home, require_ports
from cli.stack import down
from cli.stack_commands import addresses, row, well
from cli.stack_status import PartStatus, detail, gpu_line, instance_detail, state_word, status, waiting
from configs.environment import MARK, process_environment, settings_file, stack_environment
from configs.load import load
from configs.stack import Ports, Stack, StackFile
from rollout.errors import Conflict, NotFound, Refused
from rollout.nouns import Health
from store.port import InstanceState

KEY = "A" * 43 + "="
STACK = Stack(project=Path("/p"), home=Path("/h"))


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """A stack that never ran."""
    return Stack(project=tmp_path / "project", home=tmp_path / "home", ports=Ports(mlflow=5555))


def test_environment_switches_telemetry_off_and_stays_at_home(stack: Stack) -> None:
    """No part reports anywhere, and every folder that is set lies below the stack's home or cache."""
    variables = stack_environment(stack)
    assert variables["DO_NOT_TRACK"] == variables["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert (variables["PREFECT_SERVER_ANALYTICS_ENABLED"], variables["DVC_NO_ANALYTICS"]) == ("false", "1")
    for name in ("PREFECT_HOME", "PREFECT_PROFILES_PATH", "TMPDIR", "DVC_SITE_CACHE_DIR", "MPLCONFIGDIR"):
        assert variables[name].startswith((str(stack.home), str(stack.cache)))
    assert variables[MARK] == str(stack.home)


def test_foreign_settings_do_not_leak_in(stack: Stack) -> None:
    """Somebody's Prefect and MLflow settings stay outside; other variables pass; our programs come first on PATH."""
    outer = {"PREFECT_API_KEY": "x", "MLFLOW_TRACKING_URI": "http://other", "LANG": "C", "PATH": "/usr/bin"}
    variables = process_environment(stack, outer)
    assert "PREFECT_API_KEY" not in variables
    assert variables["MLFLOW_TRACKING_URI"] == stack.mlflow_url
    assert variables["LANG"] == "C"
    assert variables["PATH"].endswith(os.pathsep + "/usr/bin") and not variables["PATH"].startswith("/usr/bin:")


def test_configuration_holds_all_parts_and_keeps_the_key_off_command_lines(stack: Stack) -> None:
    """Each part is a program that supervisord restarts; the Fernet key is in no command."""
    parser = UnhosedConfigParser()
    parser.read_string(render(stack, KEY))
    for part in parts(stack):
        section = f"program:{part.name}"
        assert parser.get(section, "autorestart") == "true"
        assert parser.get(section, "stdout_logfile") == str(part.log)
        assert KEY not in parser.get(section, "command")
    assert KEY in parser.get("program:mlflow", "environment")
    assert parser.get("program:worker", "command").startswith("nice -n 10 ")


def test_any_change_of_settings_changes_the_configuration(stack: Stack) -> None:
    """``up`` compares this text to know whether what runs is what is asked for: the engines' range counts as well."""
    other = stack.model_copy(update={"ports": Ports(mlflow=5555, engines_to=18150)})
    assert render(stack, KEY) == render(stack, KEY) != render(other, KEY)


def test_settings_in_force_can_be_read_again(stack: Stack) -> None:
    """What ``up`` writes for the agent and the flows is a stack file with the same ports."""
    prepare(stack)
    assert settings_file(stack).read_text() == settings_text(stack)
    assert load(StackFile, settings_file(stack)).ports == stack.ports


def test_keys_are_made_once_and_private(stack: Stack) -> None:
    """A key stays the same, in a file of mode 0600 in a folder of mode 0700."""
    prepare(stack)
    first = key(stack, "mlflow-webhook", lambda: "new")
    assert first != "new" and len(first) >= 32
    assert stat.S_IMODE((stack.secrets / "mlflow-webhook").stat().st_mode) == 0o600
    assert stat.S_IMODE(stack.secrets.stat().st_mode) == 0o700


def test_taken_port_names_part_and_holder(stack: Stack) -> None:
    """A port that another program holds is an error with the part, the port, the pid and the fix; nothing is made."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        clash = Stack(project=stack.project, home=stack.home, ports=Ports(gateway=port))
        with pytest.raises(Conflict, match=rf"gateway: port {port} is held by pid {os.getpid()} .*configs/stack.yaml"):
            require_ports(clash)
    assert not stack.home.exists()


def test_home_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    """A home whose socket would not fit is refused with the rule."""
    with pytest.raises(Refused, match="too long"):
        require_home(Stack(project=tmp_path, home=tmp_path / ("x" * 100)))


def test_only_one_works_on_a_stack(stack: Stack) -> None:
    """A second ``up`` at the same time is told to wait, and may begin afterwards."""
    with only_one(stack):
        with pytest.raises(Conflict, match="another"), only_one(stack):
            pass
    with only_one(stack):
        assert (stack.run / "up.lock").exists()


def test_status_and_down_of_a_stack_that_never_ran(stack: Stack) -> None:
    """Asking for the status, or ending it, makes nothing and starts nothing."""
    said: list[tuple[str, str]] = []
    lines = status(stack)
    down(stack, lambda step, state: said.append((step, state)))
    assert [line.name for line in lines] == ["supervisor", "mlflow", "prefect", "gateway", "agent", "worker"]
    assert {line.health for line in lines} == {"stopped"}
    assert said == [("stack", "not there")]
    assert not stack.home.exists()


def test_digest_changes_with_a_flow(tmp_path: Path) -> None:
    """A changed flow is deployed anew, because its signature is the deployment's form; no prefect.yaml is an error."""
    with pytest.raises(NotFound, match=r"prefect\.yaml"):
        digest(tmp_path)
    (tmp_path / "flows").mkdir()
    (tmp_path / "prefect.yaml").write_text("name: x")
    (tmp_path / "flows" / "go.py").write_text("a")
    first = digest(tmp_path)
    assert digest(tmp_path) == first
    (tmp_path / "flows" / "go.py").write_text("b")
    assert digest(tmp_path) != first


def test_dead_runs_are_those_without_heartbeat_and_without_end() -> None:
    """A run that ended, was paused or sends heartbeats is not taken for dead."""
    trigger = dead_runs()["trigger"]
    assert {"prefect.flow-run.heartbeat", "prefect.flow-run.Completed", "prefect.flow-run.Paused"} <= set(
        trigger["expect"]
    )
    assert trigger["within"] >= 3 * int(stack_environment(STACK)["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])


def test_worker_that_never_reported_was_never_heard() -> None:
    """A worker's last word is a time; none counts as never."""
    assert heard({"last_heartbeat_time": None}) == 0.0
    assert heard({"last_heartbeat_time": "1970-01-01T00:00:10Z"}) == 10.0


def test_tail_is_one_line(tmp_path: Path) -> None:
    """The end of a log fits into an error; a missing log is no error of its own."""
    log = tmp_path / "log"
    log.write_text("a\nb\n\n c\n")
    assert tail(log, lines=3) == "b | c"
    assert tail(tmp_path / "none") == "no log"


@pytest.mark.parametrize(
    ("state", "word"),
    [(0, "stopped"), (10, "starting"), (20, "ready"), (40, "stopping"), (100, "stopped"), (200, "failed")],
)
def test_states_in_our_words(state: int, word: str) -> None:
    """supervisord's numbers as words."""
    assert state_word({"state": state}) == word


def test_detail_says_how_long_or_how_it_ended() -> None:
    """A living part shows its age, a dead one its status, one that could not start the reason."""
    info = {"state": 20, "now": 105, "start": 100, "spawnerr": "", "exitstatus": 3}
    assert detail(info) == "up 5 s"
    assert detail(info | {"state": 100, "statename": "EXITED"}) == "exited, status 3"
    assert detail(info | {"state": 200, "spawnerr": "no such file"}) == "no such file"
    assert detail(None) == ""


def test_exit_code_looks_at_parts_only(stack: Stack) -> None:
    """A stopped instance is nobody's failure, a stopped part is."""
    part = PartStatus("agent", 7, 8801, "ready", 70.4)
    stopped = PartStatus("chat-v1-0", None, None, "stopped", None, instance=True)
    assert well([part, stopped])
    assert not well([part, PartStatus("worker", None, None, "stopped", None)])
    assert row(part) == ("agent", "ready", 7, 8801, "70 MiB", "")
    assert any(stack.mlflow_url in line for line in addresses(stack))


def test_an_instance_tells_its_reason_and_its_warm_up() -> None:
    """One that waits for a GPU has no process and is shown all the same."""
    life = InstanceState("chat-v2-0", "chat", 2, 0, "127.0.0.1", 18100, Health.BACKOFF, reason="1 GPU wanted, 0 of 1")
    assert waiting(life) == PartStatus("chat-v2-0", None, 18100, "backoff", None, "1 GPU wanted, 0 of 1", True)
    warm = {"requests": 8.0, "settled": 1.0}
    ready = InstanceState("chat-v2-0", "chat", 2, 0, "127.0.0.1", 18100, Health.READY, warm_up=warm)
    assert instance_detail("up 3 s", ready) == "up 3 s; warm-up: 8 requests, settled"


def test_nothing_is_said_of_gpus_while_no_agent_answers(stack: Stack) -> None:
    """The status answers also when nothing runs."""
    quiet = stack.model_copy(update={"ports": Ports(mlflow=5555, agent=1025)})
    assert gpu_line(quiet) == ""
