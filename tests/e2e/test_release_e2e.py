"""The main job: a first version, a good second, a bad third, and a client that notices nothing of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest
from house import House
from openai import AuthenticationError, OpenAI
from whole_stack import until
from witness import Witness, witness

from configs.stack import Stack
from gateway.tokens import TokenFile
from rollout.nouns import Health, Phase
from store.port import Release

pytestmark = pytest.mark.timeout(900)  # a release takes what it takes on a slow machine

SERVICE, MODEL = "demo", "smollm2-demo"


@pytest.fixture(scope="module")
def first(house: House) -> Release:
    """The first version, released."""
    return house.release(SERVICE, house.register(MODEL), "q8_0", "fast")


@pytest.fixture(scope="module")
def client(first: Release, house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    """A client that calls from the first release on."""
    with witness(house.stack, SERVICE, tmp_path_factory.mktemp("witness")) as running:
        yield running


@pytest.fixture(scope="module")
def second(client: Witness, house: House) -> Release:
    """Another quantisation, as good."""
    return house.release(SERVICE, house.register(MODEL), "q4_0", "fast")


@pytest.fixture(scope="module")
def third(second: Release, house: House) -> Release:
    """An engine that is truly worse."""
    return house.release(SERVICE, house.register(MODEL), "broken", "fast")


@pytest.fixture
def url(first: Release, house: House) -> str:
    """The service's address as an OpenAI base."""
    return f"{house.stack.gateway_url}/api/predict/{SERVICE}/v1"


@pytest.fixture
def token(first: Release, house: House) -> str:
    """The service's token."""
    return TokenFile(house.stack.tokens).secret(SERVICE)


def tags_of(house: House, release: Release) -> dict[str, str]:
    """The tags on the model version that was released."""
    return dict(house.registry.resolve(release.model_uri).tags)


def versions_with_alias(house: House, alias: str) -> list[str]:
    """The addresses of the model versions that bear an alias."""
    return [found.uri for found in house.registry.versions(MODEL) if alias in found.aliases]


def runs_of(stack: Stack, release: Release) -> list[Any]:
    """The MLflow runs that tell of a release."""
    client = mlflow.MlflowClient(stack.mlflow_url)
    named = f"attributes.run_name = '{release.id}'"
    return client.search_runs([e.experiment_id for e in client.search_experiments()], named)


def test_first_version_is_promoted(first: Release, house: House) -> None:
    """With nothing to compare to, a version that answers its load test goes into service; the registry is told."""
    assert first.phase is Phase.PROMOTED and first.reason.startswith("first version")
    assert house.store.service(SERVICE).stable == first.candidate
    assert versions_with_alias(house, "champion") == [first.model_uri]
    tags = tags_of(house, first)
    assert (tags["roundhouse.verdict"], tags["roundhouse.release"]) == ("promoted", first.id)


@pytest.mark.parametrize("form", ["{}", "Bearer {}"])
def test_token_opens_the_service(form: str, url: str, token: str) -> None:
    """The token is taken raw and as a bearer token."""
    assert httpx.get(f"{url}/models", headers={"Authorization": form.format(token)}).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer rh-wrong"}])
def test_wrong_token_is_401(headers: dict[str, str], url: str) -> None:
    """No token or a wrong one opens nothing."""
    assert httpx.get(f"{url}/models", headers=headers).status_code == 401


@pytest.mark.parametrize("size, status", [((1 << 20) + 1, 413), (1 << 19, 400)])
def test_body_over_a_megabyte_is_413(size: int, status: int, url: str, token: str) -> None:
    """A body over 1 MB ends at the gateway; a smaller one comes to the engine, which says what it thinks of it."""
    answer = httpx.post(f"{url}/completions", content=b"x" * size, headers={"Authorization": token})
    assert answer.status_code == status


def test_unknown_service_is_404(first: Release, house: House, token: str) -> None:
    """A service that nobody released is not found, whatever the token."""
    url = f"{house.stack.gateway_url}/api/predict/nobody/v1/models"
    assert httpx.get(url, headers={"Authorization": token}).status_code == 404


def test_openai_package_works_unchanged(url: str, token: str) -> None:
    """Users keep their client: chat and completions, streamed and not, and its own error for a wrong key."""
    with OpenAI(base_url=url, api_key=token) as client:
        said = [{"role": "user", "content": "Name a colour."}]
        whole = client.chat.completions.create(model=SERVICE, messages=said, max_tokens=8)
        assert whole.choices[0].message.content and whole.usage.completion_tokens <= 8
        events = list(client.chat.completions.create(model=SERVICE, messages=said, max_tokens=8, stream=True))
        assert "".join(e.choices[0].delta.content or "" for e in events if e.choices)
        text = client.completions.create(model=SERVICE, prompt="The capital of France is", max_tokens=8)
        assert text.choices[0].text and text.usage.prompt_tokens > 0
        parts = list(client.completions.create(model=SERVICE, prompt="Once", max_tokens=8, stream=True))
        assert "".join(p.choices[0].text for p in parts if p.choices)
        assert any(m.id for m in client.models.list())
        with pytest.raises(AuthenticationError):
            client.with_options(api_key="rh-wrong").models.list()


def test_good_version_is_promoted_on_evidence(first: Release, second: Release, house: House) -> None:
    """A second version that is as good takes over after each stage was decided by its numbers."""
    assert second.phase is Phase.PROMOTED, second.reason
    assert house.store.service(SERVICE).stable == second.candidate
    assert second.stable_before == first.candidate
    assert versions_with_alias(house, "champion") == [second.model_uri]
    assert {f["metric"]: f["outcome"] for f in second.evidence["findings"]} == dict.fromkeys(
        ("errors", "refusals", "abandoned", "TTFT", "TPOT"), "promote"
    )
    assert [s["outcome"] for s in second.evidence["stages"]] == ["promote"] * 3


def test_old_version_is_kept_warm(first: Release, second: Release, house: House) -> None:
    """The version that was replaced stays ready for as long as the policy says, with its end written down."""
    kept = next(v for v in house.store.versions(SERVICE) if v.number == first.candidate)
    assert kept.instances == 1 and kept.retire_at and second.finished_at
    assert 50 < kept.retire_at - second.finished_at < 70
    assert [i.health for i in house.store.instances(SERVICE) if i.version == kept.number] == [Health.READY]


def test_bad_version_is_rolled_back_with_the_reason(second: Release, third: Release, house: House) -> None:
    """A worse candidate is turned back for its latency, stable stays, and the registry says why."""
    assert third.phase is Phase.ROLLED_BACK, third.reason
    assert "TTFT" in third.reason or "TPOT" in third.reason
    assert house.store.service(SERVICE).stable == second.candidate == third.stable_before
    assert versions_with_alias(house, "champion") == [second.model_uri]
    tags = tags_of(house, third)
    assert (tags["roundhouse.verdict"], tags["roundhouse.reason"]) == ("rolled back", third.reason)
    until(lambda: all(i.version != third.candidate for i in house.store.instances(SERVICE)), 40, "the candidate's end")


@pytest.mark.parametrize("name", ["first", "second", "third"])
def test_mlflow_run_holds_the_release(name: str, house: House, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Parameters, metrics by step, the verdict with its evidence and the plots lie in one run."""
    release: Release = request.getfixturevalue(name)
    (run,) = runs_of(house.stack, release)
    assert run.data.params["model"] == release.model_uri
    assert run.data.tags["roundhouse.verdict"] == str(release.phase)
    assert run.data.metrics["seconds_total"] > run.data.metrics["seconds_stress"] > 0
    client = mlflow.MlflowClient(house.stack.mlflow_url)
    files = {f.path for f in client.list_artifacts(run.info.run_id)}
    assert {"release.json", "release.md", "report", "stress"} <= files
    record = json.loads(Path(client.download_artifacts(run.info.run_id, "release.json", str(tmp_path))).read_text())
    assert (record["release"], record["outcome"]) == (release.id, str(release.phase))
    if release is not request.getfixturevalue("first"):
        looks = client.get_metric_history(run.info.run_id, "ttft_n")
        assert len(looks) > 5


def test_prefect_artifact_tells_what_happened(third: Release, house: House) -> None:
    """A reader of the Prefect UI finds the verdict and its reason without opening a log."""
    asked = {"artifacts": {"key": {"any_": [f"release-{SERVICE}"]}, "flow_run_id": {"any_": [third.flow_run]}}}
    (page,) = house.prefect.ask("POST", "/artifacts/filter", asked)
    assert third.reason in page["data"] and "rolled back" in page["data"]


def test_no_request_failed_over_all_releases(client: Witness, second: Release, third: Release) -> None:
    """The client that called all the time saw no failure and no cut stream."""
    counts = client.stop()
    assert counts["failures"] == []
    assert (counts["requests_failed"], counts["streams_cut"]) == (0, 0)
    assert counts["requests_ended"] == counts["requests_sent"] > 50
    assert counts["tokens"] > 10 * counts["requests_sent"]


def test_old_version_is_retired_in_the_end(first: Release, second: Release, house: House) -> None:
    """When its time is over the version that was replaced goes, and the one in service stays."""
    kept = next(v for v in house.store.versions(SERVICE) if v.number == first.candidate)
    until(lambda: time.time() > (kept.retire_at or 0), 70, "its time")
    until(lambda: {i.version for i in house.store.instances(SERVICE)} == {second.candidate}, 40, "its end")
