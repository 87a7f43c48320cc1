"""How the devices of an inventory are, asked all at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lwplugin.errors import LwpluginError, RecipeError, did_you_mean
from lwplugin.measure.inventory import Device, Inventory
from lwplugin.measure.remote import RemoteDevice

_AT_ONCE = 32
_SILENCE_S = 5.0


def states(inventory: Inventory, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Each device with ``state``: idle, busy, or unavailable with its ``problem``; in the inventory's order.

    Raises RecipeError for a name that the inventory does not hold.
    """
    for name in names:
        if name not in inventory.devices:
            raise RecipeError("Unknown device", got=name, do=did_you_mean(name, inventory.devices))
    chosen = {name: device for name, device in inventory.devices.items() if not names or name in names}
    if not chosen:
        return []
    with ThreadPoolExecutor(min(_AT_ONCE, len(chosen))) as pool:
        return list(pool.map(_state, chosen, chosen.values()))


def _state(name: str, device: Device) -> dict[str, Any]:
    known: dict[str, Any] = {"name": name, "address": device.address}
    quick = device.model_copy(update={"silence_s": min(_SILENCE_S, device.silence_s)})
    try:
        said = RemoteDevice(name, quick).status()
    except LwpluginError as error:
        return {**known, "state": "unavailable", "problem": str(error)}
    return {**known, **said}
