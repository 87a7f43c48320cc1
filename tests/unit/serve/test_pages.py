from __future__ import annotations

import datetime
import re
import stat
import time
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.testclient import TestClient

from lwplugin.errors import LwpluginError, RegistryError
from lwplugin.policy import FleetPolicy, evaluate
from lwplugin.registry import Decision, Holdings, Listed
from lwplugin.serve import queue
from lwplugin.serve.app import create_app
from lwplugin.serve.intent import Intent
from lwplugin.serve.pages.access import COOKIE, Tokens, add_token
from lwplugin.serve.pages.decisions import DecisionLogs
from lwplugin.serve.pages.site import Site, Source
from lwplugin.serve.pages.survey import Fleet, front, score_of, survey
from lwplugin.serve.rules import RuleBook
from lwplugin.serve.service import Service

HOSTILE = "<script>alert('x')</script>\" onload=\"y"
POLICY = FleetPolicy.model_validate({"rules": [{"name": "edge", "budget": {"p95_ms": 2}, "owner": "ana"}]})
TODAY = datetime.date(2026, 11, 24)


def light(version: int, name: str = "net", aliases: tuple[str, ...] = (), **tags: str) -> Listed:
    known = {
        "digest": "d",
        "target": "edge-cpu",
        "verdict": "pass",
        "size_bytes": f"{100_000 + version}",
        "p50_ms": "1.1",
        "p95_ms": "1.5",
        "p95_high_ms": "1.8",
        "accuracy": "0.96",
        "accuracy_drop_high": "0.01",
    }
    merged = {f"lwplugin.{key}": value for key, value in (known | tags).items()}
    return Listed(name=name, version=version, aliases=aliases, tags=merged, created_ms=1_764_000_000_000)


def fleet_of(*versions: Listed, policy: FleetPolicy | None = POLICY) -> Fleet:
    found = None if policy is None else evaluate(policy, versions, today=TODAY)
    return survey(versions, found, taken_s=1_764_000_000.0)


def decision(**changes: Any) -> Decision:
    fields = {
        "number": 1,
        "at": "2026-11-24T12:00:00+00:00",
        "who": "ana",
        "action": "promoted",
        "model": "net",
        "alias": "champion",
        "version": "3",
        "previous": "2",
        "reason": "faster",
        "verdict": "pass",
        "verdict_digest": "ab" * 32,
        "before": None,
    }
    return Decision(**{**fields, **changes}).sealed()


@pytest.fixture
def client(engine: Engine) -> Callable[..., TestClient]:
    def make(
        fleet: Fleet | None,
        *,
        tokens: Tokens | None = None,
        decisions: Callable[[str], Sequence[Decision]] = lambda name: [],
        mlflow: str | None = "http://mlflow:5000",
    ) -> TestClient:
        source = Source(
            fleet=lambda: fleet,
            jobs=lambda most: queue.latest_jobs(engine, most),
            job_counts=lambda: queue.job_counts(engine),
            decisions=DecisionLogs(decisions, wait_s=0.3),
        )
        site = Site(source, tokens=tokens, mlflow=mlflow)
        return TestClient(Starlette(routes=site.routes()), follow_redirects=False)

    return make


class _Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    @property
    def links(self) -> list[str]:
        return [value or "" for name, value in self.attributes if name in ("href", "src", "action")]


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_the_fleet_shows_aliased_versions_with_size_latency_verdicts_and_budgets(
    client: Callable[..., TestClient],
) -> None:
    slow = light(2, aliases=("champion",), p95_ms="2.5", p95_high_ms="2.6")
    answer = client(fleet_of(light(1), slow, light(1, "other", verdict="fail"))).get("/")
    assert answer.status_code == 200
    text = text_of(answer.text)
    assert "2 models, 3 versions" in text
    assert "champion: 2, 100 kB, 2.5 ms" in text
    assert "1 broken" in text
    assert "1 met" in text
    assert "1 fail" in text
    only_broken = client(fleet_of(light(1), light(1, "other", p95_ms="3"))).get("/?broken=1&q=OTH")
    assert "/models/other" in only_broken.text
    assert "/models/net" not in only_broken.text


def test_a_model_shows_findings_versions_plots_decisions_and_the_way_into_mlflow(
    client: Callable[..., TestClient],
) -> None:
    versions = [light(1, accuracy="0.9"), light(2, p95_ms="2.5", p95_high_ms="2.6"), light(3, accuracy="0.5")]
    got = client(fleet_of(*versions), decisions=lambda name: [decision()]).get("/models/net")
    assert got.status_code == 200
    text = text_of(got.text)
    assert "p95_ms is 2.5, over the budget of 2" in text
    assert "models:/net/3 meets this rule" in text
    assert "promoted champion: 2 → 3" in text
    assert got.text.count("<svg") == 4
    assert "http://mlflow:5000/#/models/net/versions/3" in got.text
    size = next(part for part in got.text.split("<svg") if 'aria-label="Accuracy against size' in part)
    assert size.count('class="point front"') == 2  # 3 is larger and worse than 1
    assert size.count('class="point"') == 1


def test_hostile_names_stay_text_and_nothing_is_fetched_or_run(client: Callable[..., TestClient]) -> None:
    version = light(1, HOSTILE, (HOSTILE,), target=HOSTILE, verdict=HOSTILE, parent_version=HOSTILE)
    bad = decision(who=HOSTILE, reason=HOSTILE, model=HOSTILE, override=HOSTILE)
    site = client(fleet_of(version), decisions=lambda name: [bad])
    start = site.get("/", params={"q": HOSTILE})
    (link,) = {link for link in _Elements(start.text).links if link.startswith("/models/")}
    for answer in (start, site.get(link), site.get("/models/" + "%3Cscript%3E"), site.get("/jobs")):
        seen = _Elements(answer.text)
        assert not {"script", "img", "link", "iframe"} & set(seen.tags)
        assert not [name for name, _ in seen.attributes if name.startswith("on") or name == "style"]
        assert all(link.startswith(("/", "?", "#", "http://mlflow:5000/#/")) for link in seen.links)
    assert site.get(link).status_code == 200
    policy = start.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy


def test_pages_render_fast_over_ten_thousand_versions(client: Callable[..., TestClient]) -> None:
    many_models = [light(1, f"net-{k:05}", ("champion",)) for k in range(10_000)]
    one_model = [light(k, accuracy=f"{0.5 + k % 997 / 2000}") for k in range(1, 10_001)]
    for versions, path, most_bytes in (
        (many_models, "/", 100_000),
        (many_models, "/?page=200", 100_000),
        (one_model, "/", 50_000),
        (one_model, "/models/net?page=100", 500_000),
    ):
        site = client(fleet_of(*versions))
        site.get("/jobs")  # templates are compiled
        began = time.monotonic()
        answer = site.get(path)
        assert answer.status_code == 200
        assert time.monotonic() - began < 5
        assert len(answer.content) < most_bytes
    assert "Page 100 of 100, 10,000 in all" in text_of(answer.text)
    last = client(fleet_of(*many_models)).get("/?q=net&page=999999").text
    assert "net-09999" in last
    assert "?q=net&amp;page=199" in last


def test_without_listing_policy_or_registry_the_page_says_so(client: Callable[..., TestClient]) -> None:
    early = client(None).get("/")
    assert early.status_code == 503
    assert "No policy" in client(fleet_of(light(1), policy=None)).get("/").text
    assert client(fleet_of()).get("/").status_code == 200
    assert client(fleet_of()).get("/models/net").status_code == 404
    assert client(fleet_of(Listed(name="net", version=1))).get("/models/net").status_code == 200

    def tampered(name: str) -> list[Decision]:
        raise RegistryError("The log of model 'net' is not as it was written")

    assert (
        "is not as it was written" in client(fleet_of(light(1)), decisions=tampered).get("/models/net").text
    )

    def slow(name: str) -> list[Decision]:
        time.sleep(1)
        return []

    began = time.monotonic()
    assert "has not answered yet" in client(fleet_of(light(1)), decisions=slow).get("/models/net").text
    assert time.monotonic() - began < 0.9


@pytest.mark.parametrize(
    "query", ["page=-1", "page=x", "page=²", "page=99999999999999", "target=no", "page="]
)
def test_odd_queries_are_answered(client: Callable[..., TestClient], query: str) -> None:
    site = client(fleet_of(light(1)))
    assert site.get(f"/?{query}").status_code == 200
    assert site.get(f"/models/net?{query}").status_code == 200


def test_work_is_shown_without_what_it_printed(
    client: Callable[..., TestClient], engine: Engine, intent: Callable[[int], Intent]
) -> None:
    queue.settle(engine, [], [(intent(k), "reconciler") for k in range(30)])
    job = queue.claim(engine, "me", 60)
    assert job is not None
    for _ in range(queue.MOST_ATTEMPTS):
        queue.finish(engine, job, "me", 2, "secret output")
    site = client(fleet_of(light(1)))
    start = site.get("/").text
    assert "10 more wait" in start
    everything = site.get("/jobs").text
    assert everything.count("/models/net") == 30
    assert "secret output" not in start + everything


def test_a_token_opens_the_pages_and_only_its_digest_is_kept(
    client: Callable[..., TestClient], tmp_path: Path
) -> None:
    file = tmp_path / "tokens.txt"
    token, other = add_token(file, "ana"), add_token(file, "ben")
    assert token not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    site = client(fleet_of(light(1)), tokens=Tokens(file))
    for path in ("/", "/jobs", "/models/net", "/models/absent"):
        refused = site.get(path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "edge-cpu" not in refused.text
        assert site.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert site.get("/", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert site.get("/", headers={"Authorization": f"Basic {token}"}).status_code == 401
    digest = file.read_text().split()[0].removeprefix("sha256:")
    assert site.get("/", headers={"Authorization": f"Bearer {digest}"}).status_code == 401

    assert site.post("/login", data={"token": "wrong"}).status_code == 401
    cross = site.post("/login", data={"token": token}, headers={"Sec-Fetch-Site": "cross-site"})
    assert cross.status_code == 403
    entered = site.post("/login", data={"token": token, "next": "/models/net?page=2"})
    assert (entered.status_code, entered.headers["location"]) == (303, "/models/net?page=2")
    cookie = entered.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert site.get("/").status_code == 200
    site.post("/logout")
    assert site.get("/").status_code == 401

    site.cookies.set(COOKIE, other)
    assert site.get("/").status_code == 200
    file.write_text("".join(line for line in file.read_text().splitlines(True) if "ben" not in line))
    assert site.get("/").status_code == 401  # revoked at once
    file.unlink()
    assert site.get("/", headers={"Authorization": f"Bearer {token}"}).status_code == 401


@pytest.mark.parametrize(
    "place", ["//evil", "https://evil", "/\\evil", "javascript:x", "/a\r\nSet-Cookie: x", ""]
)
def test_signing_in_leads_nowhere_else(client: Callable[..., TestClient], tmp_path: Path, place: str) -> None:
    token = add_token(tmp_path / "t", "ana")
    site = client(fleet_of(), tokens=Tokens(tmp_path / "t"))
    assert site.post("/login", data={"token": token, "next": place}).headers["location"] == "/"
    assert site.post("/login", data={"token": "a" * 10_000}).status_code == 401
    assert site.post("/login", content="a=1&" * 100).status_code == 401


@pytest.mark.parametrize("content", [None, "", "token-in-clear\n", "sha256:abc ana\n"])
def test_an_unusable_tokens_file_stops_the_start(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "tokens.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(LwpluginError) as error:
        Tokens(file)
    assert "token-in-clear" not in str(error.value)


def test_the_app_serves_the_last_listing_and_counts_violations(
    engine: Engine, book: Callable[[str], RuleBook], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policy.yaml").write_text("rules: [{name: edge, budget: {p95_ms: 2}}]\n")
    rule = "  - {name: r, when: {alias: nobody}, run: recipe.yaml}\npolicy: policy.yaml\n"
    service = Service(engine, book(rule), logs=tmp_path, workers=0)
    listed = [light(1), light(2, p95_ms="3"), light(3, p95_high_ms="2.2")]
    monkeypatch.setattr(
        "lwplugin.serve.dispatch.holdings", lambda **given: Holdings(versions=tuple(listed), decisions={})
    )
    site = TestClient(create_app(service, secrets=()))  # without its threads
    assert site.get("/").status_code == 503
    service._reconcile()
    assert "1 broken" in text_of(site.get("/").text)
    found = site.get("/metrics").text
    assert 'lwplugin_policy_violations{rule="edge",severity="block",status="fail"} 1.0' in found
    assert 'lwplugin_policy_violations{rule="edge",severity="block",status="inconclusive"} 1.0' in found
    del listed[1:]
    service._reconcile()
    assert (
        'lwplugin_policy_violations{rule="edge",severity="block",status="fail"} 0.0'
        in site.get("/metrics").text
    )


def test_the_front_and_the_score() -> None:
    assert front([]) == []
    assert front([(2, 0.5), (1, 0.5), (1, 0.6), (3, 0.9), (4, 0.9)]) == [2, 3]
    assert score_of([light(1, f1_drop_high="0.1"), light(2, f1_drop_high="0.1", accuracy_drop_high="x")]) in (
        "accuracy",
        "f1",
    )
    assert score_of([Listed(name="a", version=1)]) == "accuracy"
