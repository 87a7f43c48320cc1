"""Notices by mail."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate

from lwplugin.notify.channels import Email
from lwplugin.notify.failure import NotSentError
from lwplugin.notify.notice import Notice
from lwplugin.notify.wording import Wording
from lwplugin.secret import needed_secret

_SECONDS = 10.0


def send_mail(way: Email, notice: Notice, wording: Wording) -> None:
    """Raises NotSentError where the server took it for nobody."""
    message = _message(way, notice, wording)
    try:
        with _connected(way) as server:
            server.send_message(message)
    except smtplib.SMTPAuthenticationError as error:  # a password in rotation: worth another try
        raise NotSentError(f"the mail server refused the password ({error.smtp_code})") from None
    except smtplib.SMTPRecipientsRefused as error:
        codes = sorted({code for code, _ in error.recipients.values()})
        raise NotSentError(
            f"every recipient was refused {codes}", final=all(c >= 500 for c in codes)
        ) from None
    except smtplib.SMTPResponseException as error:
        raise NotSentError(f"the mail server said {error.smtp_code}", final=error.smtp_code >= 500) from None
    except smtplib.SMTPNotSupportedError:
        raise NotSentError("the mail server offers no STARTTLS or no login", final=True) from None
    except ssl.SSLError as error:
        raise NotSentError(f"no trusted connection: {error.reason or type(error).__name__}") from None
    except (smtplib.SMTPException, OSError) as error:
        raise NotSentError(f"not reached: {type(error).__name__}") from None


def _message(way: Email, notice: Notice, wording: Wording) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = way.sender, ", ".join(way.to)
    message["Subject"], message["Date"] = wording.heading(notice), formatdate()
    message["Message-ID"] = f"<{notice.id}@{way.sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(wording.text(notice) + "\n")
    return message


def _connected(way: Email) -> smtplib.SMTP:
    trust = None if way.tls == "none" else ssl.create_default_context(cafile=way.ca_file)
    server: smtplib.SMTP
    if way.tls == "implicit":
        server = smtplib.SMTP_SSL(way.server, way.port, timeout=_SECONDS, context=trust)
    else:
        server = smtplib.SMTP(way.server, way.port, timeout=_SECONDS)
    try:
        if way.tls == "starttls":
            server.starttls(context=trust)
        if way.user is not None and way.password_variable is not None:
            server.login(way.user, needed_secret(way.password_variable, why="A mail channel"))
    except BaseException:
        server.close()
        raise
    return server
