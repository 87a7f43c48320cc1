"""Telling people and programs: what is told, in which words, over which channel. Queued and retried by `serve`."""

from lwplugin.notify.channels import Channel as Channel
from lwplugin.notify.notice import EVENTS as EVENTS
from lwplugin.notify.notice import Event as Event
from lwplugin.notify.notice import Item as Item
from lwplugin.notify.notice import Notice as Notice
from lwplugin.notify.send import NotSentError as NotSentError
from lwplugin.notify.send import send as send
from lwplugin.notify.send import send_test as send_test

__all__ = ["EVENTS", "Channel", "Event", "Item", "NotSentError", "Notice", "send", "send_test"]
