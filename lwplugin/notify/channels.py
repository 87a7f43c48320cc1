"""Channels as the rules file names them. Secrets are named by the variable that holds them, never written out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lwplugin.errors import LwpluginError
from lwplugin.notify.notice import EVENTS, Event, Item, Notice
from lwplugin.notify.wording import Wording
from lwplugin.policy.document import Patterns, matches
from lwplugin.secret import needed_secret

Variable = Annotated[
    str,
    Field(
        pattern=r"^[A-Z][A-Z0-9_]*$",
        description="name of the environment variable that holds it; NAME_FILE names a mounted file instead",
    ),
]
Address = Annotated[str, Field(pattern=r"^[^\s@<>,\"]+@[^\s@<>,\"]+$")]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Slack(_Block):
    """An incoming webhook of Slack, or of what speaks like it (Mattermost, Rocket.Chat)."""

    url_variable: Variable

    def variables(self) -> tuple[str, ...]:
        return (self.url_variable,)


class Webhook(_Block):
    """Any address: JSON, signed as Standard Webhooks describe."""

    url: str = Field(
        pattern=r"^https?://[^\s@]+$", description="without credentials; the signature is the proof"
    )
    secret_variable: Variable

    def variables(self) -> tuple[str, ...]:
        return (self.secret_variable,)


class Email(_Block):
    """A mail server."""

    server: str = Field(min_length=1)
    port: int = Field(587, ge=1, le=65535)
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    ca_file: Path | None = Field(None, description="certificates to trust instead of the system's")
    user: str | None = None
    password_variable: Variable | None = None
    sender: Address
    to: tuple[Address, ...] = Field(min_length=1)

    @field_validator("to", mode="before")
    @classmethod
    def _one_may_stand_alone(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _keeps_its_password(self) -> Email:
        if (self.user is None) != (self.password_variable is None):
            raise ValueError("user and password_variable go together")
        if self.password_variable is not None and self.tls == "none":
            raise ValueError("a password is not sent in clear: use tls: starttls or implicit")
        return self

    def variables(self) -> tuple[str, ...]:
        return () if self.password_variable is None else (self.password_variable,)


class Channel(_Block):
    """Who is told of what, and how."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=80, description="lower-case letters, digits and dashes"
    )
    slack: Slack | None = None
    webhook: Webhook | None = None
    email: Email | None = None
    events: tuple[Event, ...] = Field(EVENTS, min_length=1, description="events; default: all")
    models: Patterns = Field(("*",), min_length=1, description="patterns of registered models' names")
    severity: Literal["block", "warn"] = Field(
        "warn", description="of budgets: `block` leaves out those that only warn"
    )
    template: str | None = Field(
        None, description="Jinja text of the message; default: title and one line an item"
    )
    subject: str | None = Field(None, description="Jinja text of a mail's subject")

    @field_validator("events", "models", mode="before")
    @classmethod
    def _one_may_stand_alone(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _can_be_said(self) -> Channel:
        if sum(way is not None for way in (self.slack, self.webhook, self.email)) != 1:
            raise ValueError("give one of slack, webhook and email")
        if self.subject is not None and self.email is None:
            raise ValueError("only a mail has a subject")
        for event in self.events:  # a template that fails should stop the start, not the first event
            item = Item(model="net", version=1, text="is there")
            try:
                sample = Notice(id="0", event=event, at="", items=(item,))
                self.wording.text(sample), self.wording.heading(sample)
            except LwpluginError as error:
                raise ValueError(str(error)) from None
        return self

    @property
    def way(self) -> Slack | Webhook | Email:
        found = self.slack or self.webhook or self.email
        assert found is not None  # _can_be_said
        return found

    @property
    def wording(self) -> Wording:
        return Wording(kind="slack" if self.slack else "plain", template=self.template, subject=self.subject)

    def wants(self, event: Event, items: Sequence[Item]) -> list[Item]:
        """Those of the items it is told of."""
        if event not in self.events:
            return []
        return [
            item
            for item in items
            if matches(item.model, self.models) and not (self.severity == "block" and item.severity == "warn")
        ]

    def check_secrets(self) -> None:
        """Raises LwpluginError naming the variable that is missing."""
        for variable in self.way.variables():
            needed_secret(variable, why=f"Channel '{self.name}'")
