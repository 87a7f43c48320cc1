"""`lwplugin init`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from lwplugin.cli.output import write_json
from lwplugin.errors import RecipeError

EXAMPLE = """\
# Completion and checks in an editor: lwplugin init --schema > recipe.schema.json
# yaml-language-server: $schema=./recipe.schema.json

model: models:/my-model@champion        # or models:/my-model/3

# Where examples come from: a built-in set (digits, fashion_mnist), npz, parquet, image_folder, text,
# or `module:function` / `file.py:function` of your own. They are split into train, calibration and test.
# `lwplugin explain data npz` lists what a source takes, `lwplugin explain gate` the keys of a block.
data: {source: digits}
task: classification        # multi_label, regression, embedding, token_classification, module:Class
seed: 0

# What is done, in this order. `lwplugin methods` lists every method, `lwplugin methods prune taylor` its options.
compress:
  - prune: {method: taylor, macs: 0.5, finetune_epochs: 3}
  - quantize: {method: int8, calibrator: entropy}

# Where it will run, and what it may cost there.
targets:
  - name: edge-cpu
    format: onnx
    threads: 1
    batch: 1
    device: cpu             # or cuda, or a board that devices.yaml names: `lwplugin devices`
    budget: {size_bytes: 400_000, p95_ms: 5}

# How much worse than its parent it may be, and how sure the gate must be of that.
gate:
  max_drop: {accuracy: 0.01}
  # must_reach: {accuracy: 0.9}    # whatever the parent does
  confidence: 0.95
  no_faster: reject

# Left out: nothing is registered, the verdict is the result.
register: {alias: "light-{target}"}
"""


@click.command("init", help="Write an example recipe to FILE (default recipe.yaml; - for stdout).")
@click.argument(
    "file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), default="recipe.yaml"
)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of recipes instead.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init_command(file: Path, schema: bool, force: bool) -> int:
    if schema:
        from lwplugin.recipe import json_schema

        write_json(json_schema(), sys.stdout)
        return 0
    if str(file) == "-":
        click.echo(EXAMPLE, nl=False)
        return 0
    if file.exists() and not force:
        raise RecipeError(f"{file} is there already", do="name another file, or say --force")
    file.write_text(EXAMPLE, encoding="utf-8")
    click.echo(f"{file} written. Next: fill in the model, then `lwplugin run {file} --dry-run`.", err=True)
    return 0
