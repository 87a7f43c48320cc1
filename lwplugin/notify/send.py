"""One notice over one channel, now. Who calls keeps the queue and tries again."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from lwplugin.errors import LwpluginError
from lwplugin.notify.channels import Channel, Email, Slack
from lwplugin.notify.failure import NotSentError
from lwplugin.notify.http import post_slack, post_webhook
from lwplugin.notify.mail import send_mail
from lwplugin.notify.notice import Item, Notice

__all__ = ["NotSentError", "send", "send_test"]


def send(channel: Channel, notice: Notice) -> None:
    """Returns when the other side has taken it.

    Raises NotSentError, whose text holds no address and no secret; LwpluginError where a secret is not set.
    """
    if isinstance(channel.way, Slack):
        post_slack(channel.way, channel.wording.text(notice))
    elif isinstance(channel.way, Email):
        send_mail(channel.way, notice, channel.wording)
    else:
        post_webhook(channel.way, notice, channel.wording.text(notice))


def send_test(channel: Channel) -> None:
    """A notice that says it is a test. Raises LwpluginError where it did not get through."""
    item = Item(model="test", version=1, text=f"a test of channel '{channel.name}'; nothing happened")
    at = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        send(channel, Notice(id=uuid.uuid4().hex, event=channel.events[0], at=at, items=(item,)))
    except NotSentError as error:
        raise LwpluginError(
            f"Channel '{channel.name}' did not take the notice",
            got=error,
            do="check its address, its secret and whether this machine may reach it",
        ) from None
