#!/bin/sh
# components/ and pipelines/ install as lwplugin.components and lwplugin.pipelines; mypy finds packages by
# folder, so it is shown a tree of links in which they lie there.
set -eu
tree=build/types/lwplugin
rm -rf build/types
mkdir -p "$tree"
for entry in lwplugin/*; do
    case $entry in *__pycache__) continue ;; esac
    ln -s "../../../$entry" "$tree/"
done
ln -s ../../../components ../../../pipelines "$tree/"
MYPYPATH=build/types exec "${BIN:-.venv/bin}/mypy" --config-file pyproject.toml --cache-dir .mypy_cache -p lwplugin
