"""Notices over HTTP: Slack's incoming webhooks, and signed JSON for programs."""

from __future__ import annotations

import base64
import binascii
import json
import time

from lwplugin.notify.channels import Slack, Webhook
from lwplugin.notify.failure import NotSentError
from lwplugin.notify.notice import Notice
from lwplugin.secret import needed_secret, sign

_SECONDS = (5.0, 10.0)  # to connect, to answer
_TRY_AGAIN = {408, 421, 425, 429}
_MOST_RETRY_AFTER_S = 3600.0


def post_slack(way: Slack, text: str) -> None:
    """Raises NotSentError."""
    url = needed_secret(way.url_variable, why="A Slack channel")
    _post(url, json.dumps({"text": text}).encode(), {})


def post_webhook(way: Webhook, notice: Notice, text: str) -> None:
    """The notice as JSON with its ``title`` and ``text``; headers as in Standard Webhooks. Raises NotSentError."""
    content = notice.model_dump(mode="json") | {"title": notice.title, "text": text}
    for item, entry in zip(notice.items, content["items"], strict=True):
        entry["uri"] = item.uri
    body = json.dumps(content, ensure_ascii=False).encode()
    stamp = str(int(time.time()))
    key = _key(needed_secret(way.secret_variable, why="A webhook channel"))
    headers = {
        "webhook-id": notice.id,
        "webhook-timestamp": stamp,
        "webhook-signature": sign(key, notice.id, stamp, body),
    }
    _post(way.url, body, headers)


def _key(secret: str) -> bytes:
    """The secret's own text, or what is base64 behind `whsec_`, as Standard Webhooks write keys."""
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise NotSentError("the secret behind whsec_ is no base64") from None


def _post(url: str, body: bytes, headers: dict[str, str]) -> None:
    """The address may be a secret, so no error repeats it. No redirect is followed: it could lead elsewhere."""
    import requests

    every = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "lwplugin", **headers}
    try:
        with requests.post(
            url, data=body, headers=every, timeout=_SECONDS, allow_redirects=False, stream=True
        ) as answer:
            status, asked = answer.status_code, answer.headers.get("Retry-After", "")
    except requests.Timeout:
        raise NotSentError("no answer in time") from None
    except (requests.RequestException, ValueError) as error:
        raise NotSentError(f"not reached: {type(error).__name__}") from None
    if 200 <= status < 300:
        return
    wait_s = min(float(asked), _MOST_RETRY_AFTER_S) if asked.isascii() and asked.isdigit() else None
    raise NotSentError(
        f"answered {status}", final=status < 500 and status not in _TRY_AGAIN, retry_after_s=wait_s
    )
