from __future__ import annotations

import base64
import hashlib
import hmac
import random
from dataclasses import dataclass

import pytest

from lwplugin.secret import sign
from lwplugin.serve.events import MalformedError, delivery_of
from lwplugin.serve.signature import DELIVERY, SIGNATURE, TIMESTAMP, RefusedError, verify

SECRET, NOW = "s3cret", 1_790_000_000


@dataclass(frozen=True)
class Sent:
    headers: dict[str, str]
    body: bytes


def sent(body: bytes = b"{}", *, secret: str = SECRET, at: int = NOW, delivery: str = "d1") -> Sent:
    return Sent(
        {DELIVERY: delivery, TIMESTAMP: str(at), SIGNATURE: sign(secret, delivery, str(at), body)}, body
    )


def accepted(message: Sent, secrets: tuple[str, ...] = (SECRET,)) -> bool:
    try:
        verify(message.headers, message.body, secrets=secrets, now_s=NOW, window_s=300)
    except RefusedError:
        return False
    return True


def test_the_signature_is_mlflows() -> None:
    expected = base64.b64encode(hmac.new(b"s3cret", b"d1.5.{}", hashlib.sha256).digest()).decode()
    assert sign("s3cret", "d1", "5", b"{}") == f"v1,{expected}"


def test_two_secrets_are_good_during_a_rotation() -> None:
    assert accepted(sent(secret="old"), ("new", "old"))
    assert not accepted(sent(secret="old"), ("new",))
    assert not accepted(sent(), ())


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({}, True),
        ({TIMESTAMP: str(NOW - 1)}, False),  # signed for another time
        ({DELIVERY: "d2"}, False),
        ({SIGNATURE: ""}, False),
        ({SIGNATURE: "v1,é"}, False),
        ({TIMESTAMP: "soon"}, False),
        ({TIMESTAMP: "-5"}, False),
        ({TIMESTAMP: "9" * 400}, False),
        ({DELIVERY: "x" * 300}, False),
        ({DELIVERY: ""}, False),
    ],
)
def test_whatever_was_changed_on_the_way_is_refused(changes: dict[str, str], good: bool) -> None:
    message = sent()
    assert accepted(Sent({**message.headers, **changes}, message.body)) is good


def test_ten_thousand_deliveries_signed_stale_forged_and_altered() -> None:
    draw = random.Random(0)
    for number in range(10_000):
        body = draw.randbytes(draw.randint(0, 200))
        at = NOW + draw.randint(-600, 600)
        secret = SECRET if draw.random() < 0.7 else draw.choice(["", "S3cret", "s3cret "])
        message = sent(body, secret=secret, at=at, delivery=f"delivery-{number}")
        altered = draw.random() < 0.2
        if altered:
            place = draw.randint(0, len(body))
            message = Sent(message.headers, body[:place] + b"x" + body[place:])
        assert accepted(message) is (secret == SECRET and abs(at - NOW) <= 300 and not altered)


def test_events_name_a_place_in_the_registry() -> None:
    alias = (
        b'{"entity":"model_version_alias","action":"created","data":{"name":"n","alias":"a","version":"1"}}'
    )
    tag = b'{"entity":"model_version_tag","action":"set","data":{"name":"n","version":"7","key":"k"}}'
    gone = b'{"entity":"model_version_alias","action":"deleted","data":{"name":"n","alias":"a"}}'
    found = delivery_of("d", alias)
    assert found is not None
    assert (found.model, found.reference) == ("n", "@a")
    found = delivery_of("d", tag)
    assert found is not None
    assert (found.model, found.reference) == ("n", "7")
    assert delivery_of("d", gone) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b'{"entity":1}',
        b'{"entity":"model_version","action":"created","data":{"name":"n","version":"x"}}',
        b'{"entity":"model_version","action":"created","data":{"name":"","version":"1"}}',
        b'{"entity":"model_version","action":"created","data":{"name":"a\\u0000","version":"1"}}',
        b'{"entity":"model_version","action":"created","data":{"name":"a\\ud800","version":"1"}}',
        b'{"entity":"model_version","action":"created","data":{"name":["n"],"version":"1"}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_event_is_told_apart(body: bytes) -> None:
    with pytest.raises(MalformedError):
        delivery_of("d", body)
