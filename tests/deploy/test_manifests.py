"""The Kubernetes manifests: valid for the API, and true to each other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from deployment import (
    DEPLOY,
    KUBERNETES,
    container,
    dockerfile,
    option,
    pod,
    read_yaml,
    variables,
    yaml,
)

kubernetes_validate = pytest.importorskip("kubernetes_validate")

SELECTED = {"app.kubernetes.io/name": "litellm-resilient"}
STOP_MARGIN = 10
"""What the supervisor gives a worker to shut LiteLLM down after its drain."""
HANG_TIMEOUT = 60
BOOT_TIMEOUT = 300
"""Defaults of the command, which the Deployment does not change."""
UNITS = {"Mi": 1, "Gi": 1024}
MANIFESTS = ("configmap.yaml", "deployment.yaml", "pdb.yaml", "service.yaml")
VERSIONS = ("1.30", "1.33", kubernetes_validate.latest_version())


def merged(base: Any, patch: Any) -> Any:
    """Return a strategic merge: maps by key, lists of named things by name."""
    if isinstance(base, dict) and isinstance(patch, dict):
        both = {key: merged(base[key], value) for key, value in patch.items() if key in base}
        return {**base, **patch, **both}
    if isinstance(base, list) and all("name" in each for each in [*base, *patch]):
        named = {each["name"]: each for each in base}
        for each in patch:
            named[each["name"]] = merged(named.get(each["name"], {}), each)
        return list(named.values())
    return patch


def with_litellms_metrics() -> dict[str, Any]:
    base = read_yaml(KUBERNETES / "deployment.yaml")
    result: dict[str, Any] = merged(
        copy.deepcopy(base), read_yaml(KUBERNETES / "optional" / "litellm-prometheus.yaml")
    )
    return result


def mebibytes(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def seconds(probe: dict[str, Any]) -> int:
    result: int = probe["periodSeconds"] * probe["failureThreshold"]
    return result


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_valid(name: str, version: str) -> None:
    kubernetes_validate.validate(read_yaml(KUBERNETES / name), version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_deployment_is_valid_with_litellms_metrics(version: str) -> None:
    patched = with_litellms_metrics()
    kubernetes_validate.validate(patched, version, strict=True)
    (only,) = patched["spec"]["template"]["spec"]["containers"]
    assert only["args"] == container()["args"]
    mounts = {mount["name"]: mount["mountPath"] for mount in only["volumeMounts"]}
    volumes = {volume["name"] for volume in patched["spec"]["template"]["spec"]["volumes"]}
    assert set(mounts) == volumes
    assert variables(only)["PROMETHEUS_MULTIPROC_DIR"] == mounts["litellm-prometheus"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_network_policy_spares_the_proxys_port_and_guards_that_of_metrics(version: str) -> None:
    policy = read_yaml(KUBERNETES / "optional" / "networkpolicy.yaml")
    kubernetes_validate.validate(policy, version, strict=True)
    assert policy["spec"]["podSelector"]["matchLabels"] == SELECTED
    sources = {rule["ports"][0]["port"]: rule.get("from") for rule in policy["spec"]["ingress"]}
    assert set(sources) == {port["name"] for port in container()["ports"]}
    assert sources["http"] is None
    assert sources["metrics"]


def test_validation_finds_what_is_wrong() -> None:
    broken = read_yaml(KUBERNETES / "deployment.yaml")
    broken["spec"]["template"]["spec"]["containers"][0]["preStop"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_kustomize_applies_each_manifest() -> None:
    kustomization = read_yaml(KUBERNETES / "kustomization.yaml")
    assert sorted(kustomization["resources"]) == sorted(MANIFESTS)
    found = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert found == set(MANIFESTS)
    (image,) = kustomization["images"]
    assert image["name"] == container()["image"]


def test_what_kustomize_offers_is_there() -> None:
    lines = (KUBERNETES / "kustomization.yaml").read_text(encoding="utf-8").splitlines()
    offered = {Path(line.split()[-1]).name for line in lines if "optional/" in line}
    assert offered == {path.name for path in (KUBERNETES / "optional").iterdir()}


def test_everything_selects_the_pods() -> None:
    deployment = read_yaml(KUBERNETES / "deployment.yaml")["spec"]
    assert deployment["template"]["metadata"]["labels"] == SELECTED
    assert deployment["selector"]["matchLabels"] == SELECTED
    assert read_yaml(KUBERNETES / "service.yaml")["spec"]["selector"] == SELECTED
    for name in ("pdb.yaml", "optional/podmonitor.yaml"):
        assert read_yaml(KUBERNETES / name)["spec"]["selector"]["matchLabels"] == SELECTED
    (spread,) = pod()["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == SELECTED


def test_ports_meet() -> None:
    ports = {port["name"]: str(port["containerPort"]) for port in container()["ports"]}
    assert ports["http"] == option("--port", container()["args"])
    assert ports["metrics"] == variables(container())["LITELLM_RESILIENCE_METRICS_PORT"]
    exposed = dockerfile()[""].all("EXPOSE")[0].split()
    assert sorted(exposed) == sorted(f"{port}/tcp" for port in ports.values())

    (served,) = read_yaml(KUBERNETES / "service.yaml")["spec"]["ports"]
    assert served["targetPort"] == "http"
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[name]["httpGet"]["port"] == "metrics"
    (scraped,) = read_yaml(KUBERNETES / "optional" / "podmonitor.yaml")["spec"][
        "podMetricsEndpoints"
    ]
    assert scraped["port"] == "metrics"
    template = read_yaml(KUBERNETES / "deployment.yaml")["spec"]["template"]
    annotations = template["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == ports["metrics"]
    assert annotations["prometheus.io/path"] == scraped["path"]


def test_the_grace_period_fits_the_drain() -> None:
    drain = float(option("--worker_drain_timeout", container()["args"]))
    assert float(variables(container())["GRACEFUL_SHUTDOWN_TIMEOUT"]) == drain
    (_, pause) = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert pod()["terminationGracePeriodSeconds"] >= float(pause) + drain + STOP_MARGIN + 5


def test_probes_leave_to_the_supervisor_what_it_does_itself() -> None:
    """The kubelet asks it, not a worker; where that cannot be, it waits longer."""
    assert container()["livenessProbe"]["httpGet"]["path"] == "/live"
    helm = read_yaml(DEPLOY / "helm" / "values.yaml")
    assert seconds(helm["livenessProbe"]) > HANG_TIMEOUT
    assert seconds(container()["startupProbe"]) >= BOOT_TIMEOUT


def test_the_memory_limit_has_room_for_a_replacement() -> None:
    """And for the supervisor, also where workers cannot be forked: measured on LiteLLM 1.106.2."""
    each = 680
    arguments = container()["args"]
    workers = int(option("--num_workers", arguments))
    most = int(option("--max_worker_memory_mb", arguments))
    memory = container()["resources"]
    assert mebibytes(memory["limits"]["memory"]) > workers * most + 2 * each
    assert mebibytes(memory["requests"]["memory"]) > 720
    assert "cpu" not in memory["limits"]


def test_no_pod_is_taken_away_before_another_serves() -> None:
    deployment = read_yaml(KUBERNETES / "deployment.yaml")["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert deployment["replicas"] > 1
    assert read_yaml(KUBERNETES / "pdb.yaml")["spec"]["maxUnavailable"] == 1


def test_what_is_written_to_is_mounted() -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in container()["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    assert set(mounts.values()) == set(volumes)
    assert container()["securityContext"]["readOnlyRootFilesystem"] is True
    assert "emptyDir" in volumes[mounts["/tmp"]]

    folder, _, key = option("--config", container()["args"]).rpartition("/")
    configmap = read_yaml(KUBERNETES / "configmap.yaml")
    assert volumes[mounts[folder]]["configMap"]["name"] == configmap["metadata"]["name"]
    assert yaml.safe_load(configmap["data"][key])["model_list"]


def test_secrets_come_from_the_secret() -> None:
    config = read_yaml(KUBERNETES / "configmap.yaml")["data"]["config.yaml"]
    settings = yaml.safe_load(config)
    assert settings["general_settings"]["master_key"] == "os.environ/LITELLM_MASTER_KEY"
    (given,) = [each for each in container()["env"] if each["name"] == "LITELLM_MASTER_KEY"]
    reference = given["valueFrom"]["secretKeyRef"]
    assert not reference.get("optional")
    (all_of,) = container()["envFrom"]
    assert all_of["secretRef"]["name"] == reference["name"]
    assert "sk-" not in config
