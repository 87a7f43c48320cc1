"""A digest of what the examples are, cheap enough to compute before every run."""

from __future__ import annotations

import hashlib
import json

from lwplugin.data.spec import DataSpec


def fingerprint(spec: DataSpec) -> str:
    """sha256 over the source's contents and how they are split; paths do not count, bytes do.

    Local files by content, built-in sets by their packaged file, ``module:function`` by the source of
    the file it is in and its arguments. No torch is imported and no example decoded.
    """
    what = {
        "source": spec.source,
        "contents": spec.reader.contents(spec.source, spec.options),
        "calibration": spec.calibration,
        "seed": spec.seed,
        "slices": list(spec.slices),
        "duplicates": spec.duplicates,
        "short_texts": spec.short_texts,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
