"""The values for LiteLLM's chart: keys that it has, and the same as in the manifests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployment import DEPLOY, KUBERNETES, container, option, pod, read_yaml, variables

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUES = read_yaml(DEPLOY / "helm" / "values.yaml")
LINES = Path(__file__).with_name("litellm_helm_keys.txt").read_text(encoding="utf-8").splitlines()
KNOWN = {line.removeprefix("+ ") for line in LINES if not line.startswith("#")}


def keys(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Return the keys with a value, in the notation of the list."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if f"{key}.*" in KNOWN:
            yield f"{key}.*"
        elif isinstance(value, dict):
            yield from keys(value, f"{key}.")
        else:
            yield key


def test_the_chart_has_each_key() -> None:
    assert sorted(set(keys(VALUES)) - KNOWN) == []


def test_a_key_that_the_chart_does_not_have_is_found() -> None:
    wrong = {"pdb": {"minimum": 1}, "shareProcessNamespace": True, "resources": {"any": 1}}
    assert sorted(set(keys(wrong)) - KNOWN) == ["pdb.minimum", "shareProcessNamespace"]


def test_the_pod_is_that_of_the_manifests() -> None:
    this = container()
    deployment = read_yaml(KUBERNETES / "deployment.yaml")["spec"]
    assert VALUES["args"] == this["args"]
    assert VALUES["lifecycle"] == this["lifecycle"]
    assert VALUES["resources"] == this["resources"]
    assert VALUES["envVars"] == variables(this)
    assert VALUES["securityContext"] == this["securityContext"]
    assert VALUES["podSecurityContext"] == pod()["securityContext"]
    assert VALUES["terminationGracePeriodSeconds"] == pod()["terminationGracePeriodSeconds"]
    assert VALUES["replicaCount"] == deployment["replicas"]
    assert VALUES["strategy"] == deployment["strategy"]
    assert VALUES["podAnnotations"] == deployment["template"]["metadata"]["annotations"]
    budget = read_yaml(KUBERNETES / "pdb.yaml")["spec"]
    assert VALUES["pdb"]["maxUnavailable"] == budget["maxUnavailable"]


def test_probes_are_litellms_own_on_the_only_port_that_the_chart_probes() -> None:
    for name in ("startupProbe", "readinessProbe"):
        probe = {**container()[name], "path": "/health/readiness"}
        del probe["httpGet"]
        assert VALUES[name] == probe
    assert VALUES["livenessProbe"]["path"] == "/health/liveliness"


def test_the_configuration_is_where_the_chart_puts_it() -> None:
    assert option("--config", VALUES["args"]) == "/etc/litellm/config.yaml"
    assert option("--port", VALUES["args"]) == "4000"
    assert "service" not in VALUES
    master_key = VALUES["proxy_config"]["general_settings"]["master_key"]
    assert master_key == "os.environ/PROXY_MASTER_KEY"
    assert VALUES["masterkeySecretName"] in VALUES["environmentSecrets"]
