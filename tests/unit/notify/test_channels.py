from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lwplugin.errors import LwpluginError
from lwplugin.notify import EVENTS, Channel, Item, Notice
from lwplugin.notify.wording import MOST_CHARACTERS, Wording

SLACK = {"slack": {"url_variable": "TEAM_URL"}}
MAIL = {"server": "mail.example", "sender": "a@example.com", "to": "b@example.com"}


def channel(**fields: Any) -> Channel:
    return Channel.model_validate({"name": "team", **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give one of slack, webhook and email"),
        (SLACK | {"email": MAIL}, "give one of"),
        ({"slack": {"url_variable": "https://hooks.example/T/B/x"}}, "pattern"),
        ({"webhook": {"url": "https://me:pw@example", "secret_variable": "S"}}, "pattern"),
        ({"email": MAIL | {"user": "u", "password_variable": "P", "tls": "none"}}, "not sent in clear"),
        ({"email": MAIL | {"user": "u"}}, "go together"),
        ({"email": MAIL | {"to": "b@example.com, c@example.com"}}, "pattern"),
        (SLACK | {"events": ["deleted"]}, "Input should be"),
        (SLACK | {"template": "{{ model }}"}, "'model' is undefined"),
        (SLACK | {"template": "{% for %}"}, "template cannot be used"),
        (SLACK | {"template": "{{ ''.__class__.__mro__ }}"}, "unsafe"),
        (SLACK | {"template": "{{ items[0].version + 'x' }}"}, "TypeError"),
        ({"email": MAIL, "subject": "{{ nobody }}"}, "'nobody' is undefined"),
        (SLACK | {"subject": "s"}, "only a mail has a subject"),
    ],
)
def test_a_channel_that_could_not_work_stops_the_start(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        channel(**fields)


def test_a_channel_wants_its_events_models_and_severities() -> None:
    items = [
        Item(model="fashion-net", version=1, text="", severity="block"),
        Item(model="fashion-net", version=2, text="", severity="warn"),
        Item(model="digits", version=1, text=""),
    ]
    assert channel(**SLACK).wants("budget_violated", items) == items
    picky = channel(**SLACK, events="budget_violated", models="fashion-*", severity="block")
    assert picky.wants("budget_violated", items) == items[:1]
    assert picky.wants("promoted", items) == []


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_has_words(event: Any) -> None:
    item = Item(model="net", version=3, text="happened")
    notice = Notice(id="1", event=event, at="", items=(item, item), more=1)
    for kind in ("slack", "plain"):
        lines = Wording(kind=kind).text(notice).splitlines()  # type: ignore[arg-type]
        assert len([line for line in lines if "models:/net/3: happened" in line]) == 2
        assert lines[-1] == "and 1 more"
    assert Wording().heading(notice) == f"[lwplugin] {notice.title}: models:/net/3 and 2 more"


def test_an_own_template_is_rendered_and_a_long_text_cut() -> None:
    own = channel(**SLACK, template="{% for i in items %}{{ i.model }} {{ i.owner or 'nobody' }}{% endfor %}")
    notice = Notice(id="1", event="passed", at="", items=(Item(model="a<b", version=1, text=""),))
    assert own.wording.text(notice) == "a&lt;b nobody"
    assert len(Wording(template="x" * 9000).text(notice)) == MOST_CHARACTERS
    with pytest.raises(LwpluginError, match="`lwplugin docs serve` says"):
        Wording(template="{{ items[7].model }}").text(notice)
