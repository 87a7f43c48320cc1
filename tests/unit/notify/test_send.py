from __future__ import annotations

import email
import email.policy
import json
import socket
import time
from typing import Any

import pytest

from lwplugin.errors import LwpluginError
from lwplugin.notify import Channel, Item, Notice, NotSentError, send, send_test
from lwplugin.secret import sign

NOTICE = Notice(
    id="n-1",
    event="gate_failed",
    at="2026-11-27T08:00:00+00:00",
    items=(Item(model="net", version=3, text="job 7 of rule 'edge' failed its gate", job=7),),
    more=2,
)


def channel(**ways: Any) -> Channel:
    return Channel.model_validate({"name": "team", **ways})


@pytest.fixture
def slack(receiver: Any, monkeypatch: pytest.MonkeyPatch) -> Channel:
    monkeypatch.setenv("TEAM_URL", receiver.url)
    return channel(slack={"url_variable": "TEAM_URL"})


@pytest.fixture
def mail(mailbox: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("MAIL_PASSWORD", mailbox.password)
    return {
        "server": "127.0.0.1",
        "port": mailbox.port,
        "ca_file": mailbox.ca_file,
        "user": "lwplugin",
        "password_variable": "MAIL_PASSWORD",
        "sender": "lwplugin@example.com",
        "to": ["ops@example.com", "ana@example.com"],
    }


def test_slack_gets_text_in_which_no_value_is_markup(slack: Channel, receiver: Any) -> None:
    hostile = Item(model="<!channel>", version=1, text="a & b", link="https://mlflow/#/models/x")
    send(slack, Notice(id="1", event="promoted", at="", items=(hostile,)))
    text = json.loads(receiver.bodies[0])["text"]
    expected = "*Promoted*\n• <https://mlflow/#/models/x|models:/&lt;!channel&gt;/1>: a &amp; b"
    assert text == expected


@pytest.mark.parametrize(("planted", "key"), [("planted", b"planted"), ("whsec_cGxhbnRlZA==", b"planted")])
def test_a_webhook_is_signed_over_what_was_sent(
    planted: str, key: bytes, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", planted)
    send(channel(webhook={"url": receiver.url, "secret_variable": "HOOK_SECRET"}), NOTICE)
    (body,), (headers,) = receiver.bodies, receiver.headers
    identity, stamp = headers["webhook-id"], headers["webhook-timestamp"]
    assert headers["webhook-signature"] == sign(key, identity, stamp, body)
    assert abs(int(stamp) - time.time()) < 60
    content = json.loads(body)
    assert (identity, content["event"], content["more"]) == ("n-1", "gate_failed", 2)
    assert content["items"][0]["uri"] == "models:/net/3"
    assert "job 7 of rule 'edge'" in content["text"]


@pytest.mark.parametrize(
    ("answer", "final", "wait_s"),
    [
        ((500, {}), False, None),
        ((429, {"Retry-After": "7"}), False, 7.0),
        ((503, {"Retry-After": "999999"}), False, 3600.0),
        ((404, {}), True, None),
        ((302, {"Location": "http://127.0.0.1:1/"}), True, None),  # not followed: it could lead anywhere
    ],
)
def test_what_is_worth_another_try(
    slack: Channel, receiver: Any, answer: Any, final: bool, wait_s: float | None
) -> None:
    receiver.answers.append(answer)
    with pytest.raises(NotSentError) as error:
        send(slack, NOTICE)
    assert (error.value.final, error.value.retry_after_s) == (final, wait_s)
    assert "planted-path" not in str(error.value)
    assert len(receiver.bodies) == 1


def test_an_address_that_nobody_answers_at_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("TEAM_URL", f"http://127.0.0.1:{port}/planted")
    with pytest.raises(LwpluginError, match="did not take the notice") as error:
        send_test(channel(slack={"url_variable": "TEAM_URL"}))
    assert "planted" not in str(error.value)
    monkeypatch.delenv("TEAM_URL")
    with pytest.raises(LwpluginError, match="TEAM_URL"):
        channel(slack={"url_variable": "TEAM_URL"}).check_secrets()


def test_a_mail_arrives_through_tls_with_the_password(mail: dict[str, Any], mailbox: Any) -> None:
    send(channel(email=mail, subject="{{ title }}:\n{{ about }}"), NOTICE)
    (envelope,) = mailbox.mails
    message = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert envelope.rcpt_tos == ["ops@example.com", "ana@example.com"]
    assert message["Subject"] == "Gate failed: models:/net/3 and 2 more"  # no header of a value's making
    assert message["Message-ID"] == "<n-1@example.com>"
    assert message.get_content().strip().endswith("and 2 more")
    assert mailbox.password not in envelope.content.decode()


def test_a_mail_that_reaches_somebody_is_sent_and_one_that_reaches_nobody_is_not(
    mail: dict[str, Any], mailbox: Any
) -> None:
    mailbox.refuse.add("ops@example.com")
    send(channel(email=mail), NOTICE)
    assert mailbox.mails[0].rcpt_tos == ["ana@example.com"]
    mailbox.refuse.add("ana@example.com")
    with pytest.raises(NotSentError, match="every recipient") as error:
        send(channel(email=mail), NOTICE)
    assert error.value.final


def test_a_mail_server_that_is_not_trusted_or_does_not_trust_gets_no_mail(
    mail: dict[str, Any], mailbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotSentError, match="no trusted connection"):
        send(channel(email={**mail, "ca_file": None}), NOTICE)
    monkeypatch.setenv("MAIL_PASSWORD", "guessed")
    with pytest.raises(NotSentError, match="refused the password") as error:
        send(channel(email=mail), NOTICE)
    assert not error.value.final
    assert mailbox.mails == []
