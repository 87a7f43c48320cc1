"""The chart with both majors of helm: linted, rendered, and held against the Kubernetes schemas."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "lwplugin"
MINORS = ("1.25", "1.28", "1.31", "1.34", "1.37")
NEEDED = ("mlflow.trackingUri=http://mlflow.mlflow.svc:5000", "webhook.existingSecret=lwplugin-webhook")
STORE = "store.existingClaim=lwplugin-store"
DATABASE = "database.existingSecret=lwplugin-database"
MONITORED = ("metrics.serviceMonitor.enabled=true", "metrics.prometheusRule.enabled=true")
MATRIX: dict[str, tuple[str, ...]] = {
    "least": (STORE,),
    "no store, no cron job": ("reconcile.enabled=false",),
    "replicas": (DATABASE, "replicas=3", "reconcile.timeZone=Etc/UTC"),
    "ingress": (STORE, "ingress.enabled=true", "ingress.host=lw.example", "ingress.tlsSecret=tls"),
    "monitored": (STORE, *MONITORED),
    "closed": (STORE, "networkPolicy.restrictEgress=true", "rbac.create=true"),
    "own": (
        STORE,
        "serviceAccount.create=false",
        "serviceAccount.name=mine",
        "config.existingConfigMap=rules",
        "podDisruptionBudget.enabled=false",
        "networkPolicy.enabled=false",
        "mlflow.existingSecret=mlflow",
        "env.LWPLUGIN_THREADS=4",
        "imagePullSecrets[0]=registry",
        "nodeSelector.pool=cpu",
    ),
}


@pytest.fixture(params=["helm3", "helm4"])
def helm(request: pytest.FixtureRequest) -> str:
    found = ROOT / ".tools" / request.param
    if not found.is_file():
        missing = f".tools/{request.param} is missing: sh tests/chart/get_helm.sh"
        if os.environ.get("LWPLUGIN_REQUIRE_HELM"):
            pytest.fail(missing)
        pytest.skip(missing)
    return str(found)


def call(helm: str, *arguments: str, values: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    settings = [part for value in values for part in ("--set", value)]
    return subprocess.run([helm, *arguments, *settings], capture_output=True, text=True, check=False)


def render(helm: str, *values: str) -> list[dict[str, Any]]:
    done = call(helm, "template", "release", str(CHART), "--namespace", "ml", values=(*NEEDED, *values))
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def pods(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    deployment, jobs = one(documents, "Deployment"), [d for d in documents if d["kind"] == "CronJob"]
    templates = [deployment["spec"]["template"]]
    templates += [job["spec"]["jobTemplate"]["spec"]["template"] for job in jobs]
    return [template["spec"] for template in templates]


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_every_rendering_is_valid_kubernetes(helm: str, values: tuple[str, ...]) -> None:
    import kubernetes_validate

    done = call(helm, "lint", "--strict", str(CHART), values=(*NEEDED, *values))
    assert done.returncode == 0, done.stdout + done.stderr
    documents = render(helm, *values)
    names = [(document["kind"], document["metadata"]["name"]) for document in documents]
    assert len(set(names)) == len(names)
    for document in documents:
        if document["apiVersion"].startswith("monitoring.coreos.com"):
            continue  # a CRD: Kubernetes itself has no schema of it
        for minor in MINORS:
            kubernetes_validate.validate(document, minor, strict=True)


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_no_pod_has_more_than_it_needs(helm: str, values: tuple[str, ...]) -> None:
    for pod in pods(render(helm, *values)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        # Secrets come as files or by reference, never as a value.
        assert not [v for v in container["env"] if "SECRET" in v["name"] and not v["name"].endswith("_FILE")]


def test_selectors_find_the_service_and_not_the_cron_job(helm: str) -> None:
    documents = render(helm, STORE, *MONITORED)
    deployment = one(documents, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    job_labels = one(documents, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        one(documents, "Service")["spec"]["selector"],
        one(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(documents, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= job_labels.items()
    monitor = one(documents, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert monitor.items() <= one(documents, "Service")["metadata"]["labels"].items()


def test_the_container_is_called_as_the_command_line_takes_it(helm: str) -> None:
    serve, reconcile = (pod["containers"][0]["args"] for pod in pods(render(helm, STORE)))
    assert serve[:2] == reconcile[:2] == ["serve", "/etc/lwplugin/serve.yaml"]
    assert reconcile[2:] == ["--reconcile-once"]
    command = pytest.importorskip("lwplugin.cli.serve").serve_command
    known = {option for parameter in command.params for option in parameter.opts}
    assert {argument.split("=")[0] for argument in (*serve[2:], *reconcile[2:])} <= known


def test_least_rights(helm: str) -> None:
    documents = render(helm, STORE)
    assert not {"Role", "RoleBinding", "ClusterRole"} & {document["kind"] for document in documents}
    assert all(pod["automountServiceAccountToken"] is False for pod in pods(documents))
    (rule,) = one(render(helm, STORE, "rbac.create=true"), "Role")["rules"]
    assert (rule["verbs"], rule["resourceNames"]) == (["get"], ["release-lwplugin"])


def test_a_changed_rule_restarts_the_service(helm: str) -> None:
    def checksum(*values: str) -> str:
        annotations = one(render(helm, STORE, *values), "Deployment")["spec"]["template"]["metadata"]
        found: str = annotations["annotations"]["checksum/config"]
        return found

    assert checksum() == checksum()
    assert checksum() != checksum(r"config.files.serve\.yaml=rules: []")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((NEEDED[0], STORE), "webhook.existingSecret"),
        ((NEEDED[1], STORE), "mlflow.trackingUri"),
        ((*NEEDED, STORE, "replicas=2"), "database.existingSecret"),
        (NEEDED, "store.existingClaim"),
        ((*NEEDED, STORE, "ingress.enabled=true"), "ingress.host"),
        ((*NEEDED, STORE, "replica=2"), "replica"),
        ((*NEEDED, STORE, "metrics.serviceMonitor.enable=true"), "enable"),
        ((*NEEDED, STORE, "replicas=two"), "replicas"),
        ((NEEDED[1], STORE, "mlflow.trackingUri=http://me:hunter2@mlflow"), "trackingUri"),
        ((*NEEDED, STORE, "image.digest=latest"), "digest"),
    ],
)
def test_values_that_make_no_sense_are_refused(helm: str, values: tuple[str, ...], said: str) -> None:
    done = call(helm, "template", "release", str(CHART), values=values)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_readme_says_what_the_values_say() -> None:
    code = "import sys; sys.path.insert(0, 'charts'); import readme; print(readme.readme(), end='')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (CHART / "README.md").read_text(encoding="utf-8") == done.stdout, "python charts/readme.py"
