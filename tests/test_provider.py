"""The provider's metadata: what Airflow validates, and what its form is built from."""

from __future__ import annotations

import importlib
import json
import tomllib
from pathlib import Path
from typing import Any

import airflow
import jsonschema  # type: ignore[import-untyped]
import pytest
from im_attr_audit.hook import TencentImHook
from im_attr_audit.provider import get_provider_info
from im_attr_audit.tencent.regions import REGION_HOSTS
from im_attr_audit.tencent.target import target_from_connection


@pytest.fixture(scope="module")
def info() -> dict[str, Any]:
    return get_provider_info()


def test_airflows_own_schema_accepts_it(info: dict[str, Any]) -> None:
    schema = Path(airflow.__path__[0]) / "provider_info.schema.json"
    jsonschema.validate(info, json.loads(schema.read_text()))
    json.dumps(info)


def test_it_carries_the_distributions_name_and_is_its_entry_point(info: dict[str, Any]) -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert info["package-name"] == project["name"]
    (entry,) = project["entry-points"]["apache_airflow_provider"].values()
    module, function = entry.split(":")
    assert getattr(importlib.import_module(module), function)() == info


def test_it_names_the_hook(info: dict[str, Any]) -> None:
    (kind,) = info["connection-types"]
    module, name = kind["hook-class-name"].rsplit(".", 1)
    assert getattr(importlib.import_module(module), name) is TencentImHook
    assert kind["connection-type"] == TencentImHook.conn_type
    assert kind["hook-name"] == TencentImHook.hook_name


def test_the_form_labels_the_standard_fields_and_shows_the_port(info: dict[str, Any]) -> None:
    behaviour = info["connection-types"][0]["ui-field-behaviour"]
    assert behaviour["relabeling"]["login"] == "Administrator identifier"
    assert behaviour["relabeling"]["password"] == "Secret key"
    assert behaviour["hidden-fields"] == ["schema"]


def test_the_form_knows_every_extra_field_and_offers_the_regions(info: dict[str, Any]) -> None:
    fields = info["connection-types"][0]["conn-fields"]
    assert list(fields) == [
        "region", "sdk_app_id", "app_group", "api", "ca_bundle", "timeout", "usersig_ttl",
    ]  # fmt: skip
    assert fields["region"]["schema"]["enum"] == list(REGION_HOSTS)
    assert all(field["label"] and field["description"] for field in fields.values())


def test_what_the_form_fills_in_by_itself_is_a_good_target(info: dict[str, Any]) -> None:
    fields = info["connection-types"][0]["conn-fields"]
    extra = {name: field["schema"].get("default") for name, field in fields.items()}
    for name, value in extra.items():
        if value is not None:
            jsonschema.validate(value, fields[name]["schema"])
    target_from_connection("chat", login="a", password="b" * 64, extra=extra | {"sdk_app_id": 7})
