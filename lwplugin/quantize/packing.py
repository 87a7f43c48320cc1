"""Small signed integers at their true width: 2 to 7 bits in a dense byte string, 8 bits as plain int8."""

from __future__ import annotations

import numpy as np
import torch

from lwplugin.errors import ModelError


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that ``count`` integers of ``bits`` bits take when packed."""
    return count if bits == 8 else (count * bits + 7) // 8


def pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Signed integers in [-2^(bits-1), 2^(bits-1)) → flat tensor: int8 for 8 bits, else dense uint8.

    Raises ModelError when a value does not fit.
    """
    flat = values.detach().reshape(-1).to(torch.int16)
    bound = 2 ** (bits - 1)
    if flat.numel() and (int(flat.min()) < -bound or int(flat.max()) >= bound):
        raise ModelError(
            f"An integer weight does not fit in {bits} bits", got=f"[{int(flat.min())}, {int(flat.max())}]"
        )
    if bits == 8:
        return flat.to(torch.int8)
    unsigned = (flat + bound).to(torch.uint8).cpu().numpy()
    planes = np.unpackbits(unsigned[:, None], axis=1, bitorder="little")[:, :bits]
    return torch.from_numpy(np.packbits(planes.reshape(-1), bitorder="little")).to(values.device)


def unpack(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Inverse of `pack`: flat int8 tensor with ``count`` values."""
    if packed.numel() != packed_bytes(count, bits):
        raise ModelError(
            f"Packed weights of {count} values at {bits} bits take {packed_bytes(count, bits)} bytes",
            got=packed.numel(),
        )
    if bits == 8:
        return packed.to(torch.int8)
    planes = np.unpackbits(packed.detach().cpu().numpy(), count=count * bits, bitorder="little")
    padded = np.zeros((count, 8), dtype=np.uint8)
    padded[:, :bits] = planes.reshape(count, bits)
    unsigned = np.packbits(padded, axis=1, bitorder="little").reshape(-1)
    values = unsigned.astype(np.int16) - 2 ** (bits - 1)
    return torch.from_numpy(values.astype(np.int8)).to(packed.device)
