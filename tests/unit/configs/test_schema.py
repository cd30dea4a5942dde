"""The JSON Schemas that editors use are those of the models, and hold for the files of this project."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from configs.schema import KINDS, schema_of, schema_text
from rollout.errors import NotFound

CONFIGS = Path(__file__).parents[3] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
ROLLOUT = {"kind": "rollout", "steps_percent": [5, 50]}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kept_schema_is_the_models(kind):
    """Who changes a model writes its schema anew: roundhouse policy schema KIND > configs/schemas/KIND.schema.json."""
    assert (CONFIGS / "schemas" / f"{kind}.schema.json").read_text() == schema_text(kind)
    Draft202012Validator.check_schema(schema_of(kind))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_each_file_names_its_schema_and_keeps_it(path):
    """An editor finds the schema by the first line; the schema finds nothing wrong."""
    values = yaml.safe_load(path.read_text())
    named = path.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == CONFIGS / "schemas" / f"{values['kind']}.schema.json"
    assert list(Draft202012Validator(schema_of(values["kind"])).iter_errors(values)) == []


@pytest.mark.parametrize(
    "values",
    [
        {"steps_percent": [5]},
        ROLLOUT | {"kind": "service"},
        ROLLOUT | {"colour": "red"},
        ROLLOUT | {"alpha": 0.7},
        ROLLOUT | {"outputs": {}, "evaluation": []},
        ROLLOUT | {"outputs": {}, "evaluation": 3},
        ROLLOUT | {"on_idle": "explode"},
        ROLLOUT | {"steps": "auto"},
        ROLLOUT | {"margins": {"ttft": {"harm": 1}}},
        ROLLOUT | {"vetoes": [{"name": "x", "query": "up", "above": 1, "below": 0}]},
        {"kind": "rollout"},
    ],
)
def test_the_schema_finds_what_the_model_refuses(values):
    """Missing and wrong kind, unknown keys, ranges, choices, and that one of two fields is given."""
    assert list(Draft202012Validator(schema_of("rollout")).iter_errors(values))


@pytest.mark.parametrize("sets", ["model", ["bundled", "dvc:evaluation.jsonl@v3"]])
def test_the_schema_takes_one_evaluation_set_or_several(sets):
    """As the model does."""
    assert list(Draft202012Validator(schema_of("rollout")).iter_errors(ROLLOUT | {"evaluation": sets})) == []


def test_every_field_of_a_rollout_is_explained():
    """An editor shows a sentence at each field, nested ones too."""
    schema = schema_of("rollout")
    models = {"RolloutFile": schema, **schema["$defs"]}
    silent = [
        f"{name}.{field}"
        for name, model in models.items()
        for field, told in model.get("properties", {}).items()
        if "description" not in told and field != "kind"
    ]
    assert silent == []


def test_a_field_with_two_names_is_known_by_both():
    """TensorRT-LLM's names of batch and length complete as well as ours."""
    properties = schema_of("engine")["properties"]
    assert properties["max_batch_size"] == properties["slots"] and "max_seq_len" in properties


def test_an_unknown_kind_is_told_with_the_known_ones():
    """As all that does not exist."""
    with pytest.raises(NotFound, match="rollout, service"):
        schema_of("colour")
