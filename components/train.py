"""The user's own training, before a recipe: a function that trains, registers and says what it registered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lwplugin.data.user_code import load_object
from lwplugin.errors import LwpluginError

_VERSION = re.compile(r"models:/[^/@]+(/\d+|@[^/@]+)")


def train(function: str, arguments: Mapping[str, Any]) -> str:
    """Call ``module:function`` (or ``file.py:function``); the `models:/name/3` it returns.

    Raises LwpluginError where the function is not found or answers with something else.
    """
    answer = load_object(function, what="training function")(**arguments)
    if not isinstance(answer, str) or not _VERSION.fullmatch(answer):
        raise LwpluginError(
            f"The training function {function} must say which version it registered",
            got=repr(answer)[:200],
            do="return models:/<name>/<version>",
        )
    return answer
