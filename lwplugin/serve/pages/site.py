"""The pages over HTTP. They read and show; nothing here changes the registry or the queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from lwplugin.errors import LwpluginError
from lwplugin.log import log
from lwplugin.serve.outbox import DEAD
from lwplugin.serve.pages.access import COOKIE, Tokens
from lwplugin.serve.pages.decisions import DecisionLogs
from lwplugin.serve.pages.plots import plots
from lwplugin.serve.pages.survey import Fleet, Model, score_of
from lwplugin.serve.pages.view import page, security_headers, when

MODELS_A_PAGE, VERSIONS_A_PAGE, MOST_JOBS, MOST_NOTICES = 50, 100, 200, 200
MOST_FINDINGS, MOST_ROWS, MOST_ALIASES = 15, 50, 6
_SHOWN_JOBS = 20
_COOKIE_S = 12 * 3600
_MOST_FORM_BYTES = 4096
Answer = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the pages show: the last listing (None before the first), the jobs, and decision logs."""

    fleet: Callable[[], Fleet | None]
    jobs: Callable[[int], list[dict[str, Any]]]
    job_counts: Callable[[], dict[str, int]]
    decisions: DecisionLogs
    notices: Callable[[int], list[dict[str, Any]]] | None = None  # None: nobody is told of anything
    notice_counts: Callable[[], dict[tuple[str, str], int]] = dict


@dataclass(frozen=True)
class Paging:
    """One page of a table; ``page`` is clamped to what there is."""

    page: int
    last: int
    total: int
    query: dict[str, str]

    @classmethod
    def of(cls, request: Request, total: int, size: int) -> Paging:
        last = max(1, -(-total // size))
        text = request.query_params.get("page", "1")
        wanted = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 1
        query = {key: value for key, value in request.query_params.items() if key != "page"}
        return cls(min(max(wanted, 1), last), last, total, query)

    def link(self, number: int) -> str:
        return "?" + urlencode({**self.query, "page": number})

    def cut(self, rows: Any, size: int) -> Any:
        return rows[(self.page - 1) * size : self.page * size]


class Site:
    """``tokens`` None: the pages are open. ``mlflow``: the address browsers reach MLflow at, for links."""

    def __init__(self, source: Source, *, tokens: Tokens | None = None, mlflow: str | None = None) -> None:
        self._source, self._tokens = source, tokens
        self._mlflow = mlflow or ""

    def routes(self) -> list[Route]:
        found = [
            Route("/", self._guarded(self._fleet)),
            Route("/jobs", self._guarded(self._jobs)),
            Route("/models/{name:path}", self._guarded(self._model)),
        ]
        if self._source.notices is not None:
            found.append(Route("/notices", self._guarded(self._notices)))
        if self._tokens is not None:
            found += [
                Route("/login", self._login, methods=["POST"]),
                Route("/logout", self._logout, methods=["POST"]),
            ]
        return found

    async def _fleet(self, request: Request) -> Response:
        fleet = self._source.fleet()
        if fleet is None:
            return self._not_yet()
        part = request.query_params.get("q", "")[:200]
        broken = request.query_params.get("broken") == "1"

        def render() -> str:
            counts = self._source.job_counts()
            active = counts.get("queued", 0) + counts.get("running", 0)
            found = fleet.matching(part, broken=broken)
            paging = Paging.of(request, len(found), MODELS_A_PAGE)
            shown = min(active, _SHOWN_JOBS)
            return self._page(
                "fleet.html.j2",
                fleet,
                here="fleet",
                fleet=fleet,
                jobs=self._source.jobs(shown) if shown else [],
                more_jobs=active - shown,
                dead=sum(
                    count for (_, state), count in self._source.notice_counts().items() if state == DEAD
                ),
                part=part,
                broken=broken,
                models=paging.cut(found, MODELS_A_PAGE),
                paging=paging,
                most_aliases=MOST_ALIASES,
            )

        return _html(await asyncio.to_thread(render))

    async def _model(self, request: Request) -> Response:
        fleet = self._source.fleet()
        if fleet is None:
            return self._not_yet()
        model = fleet.by_name.get(request.path_params["name"])
        if model is None:
            text = "No such model was registered when the registry was last read."
            return _html(self._page("message.html.j2", fleet, here="", title="Not found", text=text), 404)
        log_, why = await self._source.decisions.of(model.name)
        asked = request.query_params.get("target")
        target = asked if asked in model.targets else next(iter(model.targets), None)

        def render() -> str:
            paging = Paging.of(request, len(model.versions), VERSIONS_A_PAGE)
            return self._page(
                "model.html.j2",
                fleet,
                here="model",
                has_policy=fleet.has_policy,
                model=model,
                findings=model.findings[:MOST_FINDINGS],
                aliased={held.version.version: held.version.aliases for _, held in model.aliased},
                more_findings=max(0, len(model.findings) - MOST_FINDINGS),
                target=target,
                **_measured(model, target),
                versions=paging.cut(model.versions, VERSIONS_A_PAGE),
                paging=paging,
                decisions=log_[:MOST_ROWS],
                more_decisions=max(0, len(log_) - MOST_ROWS),
                why_no_log=why,
            )

        return _html(await asyncio.to_thread(render))

    async def _jobs(self, request: Request) -> Response:
        def render() -> str:
            jobs = self._source.jobs(MOST_JOBS)
            return self._page(
                "jobs.html.j2",
                None,
                here="jobs",
                jobs=jobs,
                full=len(jobs) == MOST_JOBS,
                counts=self._source.job_counts(),
            )

        return _html(await asyncio.to_thread(render))

    async def _notices(self, request: Request) -> Response:
        def render() -> str:
            assert self._source.notices is not None  # else there is no such route
            rows = self._source.notices(MOST_NOTICES)
            counts = Counter[str]()
            for (_, state), count in self._source.notice_counts().items():
                counts[state] += count
            full = len(rows) == MOST_NOTICES
            return self._page("notices.html.j2", None, here="notices", notices=rows, full=full, counts=counts)

        return _html(await asyncio.to_thread(render))

    def _page(self, template: str, seen: Fleet | None, /, **values: Any) -> str:
        taken = when(seen.taken_s) if seen is not None else ""
        always = {"mlflow": self._mlflow, "closed": self._tokens is not None, "taken": taken}
        return page(template, **always, told=self._source.notices is not None, **values)

    def _not_yet(self) -> Response:
        text = "The registry is being read for the first time. Load the page again in a moment."
        found = _html(self._page("message.html.j2", None, here="fleet", title="Not yet", text=text), 503)
        found.headers["Retry-After"] = "5"
        return found

    def _guarded(self, answer: Answer) -> Answer:
        async def guarded(request: Request) -> Response:
            if not await self._admitted(_bearer(request) or request.cookies.get(COOKIE)):
                path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                found = _html(page("login.html.j2", next=path, refused=False), 401)
                found.headers["WWW-Authenticate"] = "Bearer"
                return found
            return await answer(request)

        return guarded

    async def _admitted(self, token: str | None) -> bool:
        if self._tokens is None:
            return True
        try:
            return await asyncio.to_thread(self._tokens.good, token)
        except LwpluginError as error:
            log("tokens file cannot be used", why=str(error))
            return False

    async def _login(self, request: Request) -> Response:
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return _html(
                page("message.html.j2", title="Refused", text="Sign in on this site's own form."), 403
            )
        fields = await _form(request)
        token, following = fields.get("token", ""), _here(fields.get("next", "/"))
        if not await self._admitted(token):
            return _html(page("login.html.j2", next=following, refused=True), 401)
        found = RedirectResponse(following, 303, headers=security_headers())
        found.set_cookie(
            COOKIE,
            token,
            max_age=_COOKIE_S,
            httponly=True,
            samesite="strict",
            secure=_over_tls(request),
        )
        return found

    async def _logout(self, request: Request) -> Response:
        found = RedirectResponse("/", 303, headers=security_headers())
        found.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=_over_tls(request))
        return found


def _measured(model: Model, target: str | None) -> dict[str, Any]:
    light = [held.version for held in model.versions if held.version.light]
    of_target = [version for version in light if (version.target or "") == target]
    score = score_of(of_target[:VERSIONS_A_PAGE])
    return {"plots": plots(of_target, score), "score": score}


def _html(text: str, status: int = 200) -> Response:
    return HTMLResponse(text, status, headers=security_headers())


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


async def _form(request: Request) -> dict[str, str]:
    """Fields of a small form; none of a larger one."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_FORM_BYTES:
            return {}
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=8)
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items()}


def _here(path: str) -> str:
    """A path of this site; anything else leads to its start."""
    inside = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if inside else "/"


def _over_tls(request: Request) -> bool:
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))
