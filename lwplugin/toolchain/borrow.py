"""``borrow.py PACKAGE MODULE ARGUMENTS…``: runs one module (or file) of the lwplugin that lies in PACKAGE.

The interpreter that runs this has packages of its own. Putting PACKAGE's parent on its path would show it the
packages beside lwplugin too, in other versions; so the package alone is made known, by its directory.
"""

from __future__ import annotations

import runpy
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def make_known(package: Path) -> None:
    """Import lwplugin from its directory."""
    spec = spec_from_file_location(
        "lwplugin", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    if spec is None or spec.loader is None:
        raise SystemExit(f"no package in {package}")
    module = module_from_spec(spec)
    sys.modules["lwplugin"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    make_known(Path(sys.argv[1]))
    sys.argv = sys.argv[2:]
    run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
    run(sys.argv[0], run_name="__main__")
