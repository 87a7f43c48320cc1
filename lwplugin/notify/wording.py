"""From a notice to words. Values come from whoever may write to the registry, so they never become markup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lwplugin.errors import LwpluginError
from lwplugin.notify.notice import Notice

Kind = Literal["slack", "plain"]
MOST_CHARACTERS = 4000
_SUBJECT = "[lwplugin] {{ title }}: {{ about }}"
_TEMPLATES: dict[Kind, str] = {
    "slack": """\
*{{ title }}*
{% for item in items %}
• {% if item.link %}<{{ item.link }}|{{ item.uri }}>{% else %}{{ item.uri }}{% endif %}: {{ item.text }}
{% endfor %}
{% if more %}
and {{ more }} more
{% endif %}""",
    "plain": """\
{{ title }}
{% for item in items %}
- {{ item.uri }}: {{ item.text }}{% if item.link %} {{ item.link }}{% endif %}

{% endfor %}
{% if more %}
and {{ more }} more
{% endif %}""",
}


@dataclass(frozen=True, kw_only=True)
class Wording:
    """``template`` and ``subject`` are Jinja and know event, title, about, at, items and more."""

    kind: Kind = "plain"
    template: str | None = None
    subject: str | None = None

    def text(self, notice: Notice) -> str:
        """Raises LwpluginError where the template cannot be rendered."""
        return _render(self.kind, self.template or _TEMPLATES[self.kind], notice)[:MOST_CHARACTERS]

    def heading(self, notice: Notice) -> str:
        """A mail's subject, on one line."""
        return " ".join(_render("plain", self.subject or _SUBJECT, notice).split())[:200]


def _render(kind: Kind, template: str, notice: Notice) -> str:
    values: dict[str, Any] = {
        name: getattr(notice, name) for name in ("event", "title", "about", "at", "items")
    }
    try:
        return _environment(kind).from_string(template).render(**values, more=notice.more).strip()
    except Exception as error:  # a template may add a word to a number
        raise LwpluginError(
            "A channel's template cannot be used",
            got=f"{type(error).__name__}: {error}",
            do="`lwplugin docs serve` says what a template knows",
        ) from None


@cache
def _environment(kind: Kind) -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_FINALIZE[kind],
    )


def _for_slack(value: Any) -> Any:
    """Slack reads `<`, `>` and `&` as markup: `<!channel>` in a model's name would call everybody."""
    if not isinstance(value, str):
        return value
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_FINALIZE: dict[Kind, Callable[[Any], Any]] = {"slack": _for_slack, "plain": lambda value: value}
