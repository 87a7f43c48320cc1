"""Is a compiled pipeline whole? KFP itself does not notice a producer that is not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from lwplugin.errors import LwpluginError


def check_file(file: Path) -> None:
    """Raises LwpluginError naming everything that is missing or unknown in a pipeline file."""
    documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    problems = problems_of(documents[0], documents[1] if len(documents) > 1 else None)
    if problems:
        raise LwpluginError(f"The pipeline {file} is not whole", got="; ".join(problems))


def problems_of(pipeline: Mapping[str, Any], platform: Mapping[str, Any] | None = None) -> list[str]:
    """Unknown fields by KFP's own schema, and every producer, output, component or executor that is absent."""
    try:
        json_format.ParseDict(dict(pipeline), pipeline_spec_pb2.PipelineSpec())
    except json_format.ParseError as error:
        return [str(error)]
    problems = list(_graph(pipeline))
    executors = pipeline["deploymentSpec"]["executors"]
    for name, component in pipeline["components"].items():
        label = component.get("executorLabel")
        if label is not None and label not in executors:
            problems.append(f"component '{name}' names executor '{label}', which is not there")
    return problems + list(_platform(platform or {}, executors))


def _platform(platform: Mapping[str, Any], executors: Mapping[str, Any]) -> Iterator[str]:
    deployment = platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {})
    for label, config in deployment.get("executors", {}).items():
        if label not in executors:
            yield f"the Kubernetes part names executor '{label}', which is not there"
        try:
            json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
        except json_format.ParseError as error:
            yield f"executor '{label}': {error}"


def _graph(pipeline: Mapping[str, Any]) -> Iterator[str]:
    components = pipeline["components"]
    graphs = {"root": pipeline["root"], **{name: each for name, each in components.items() if "dag" in each}}
    for place, component in graphs.items():
        tasks = component["dag"]["tasks"]
        own = component.get("inputDefinitions", {})
        for name, task in tasks.items():
            where = f"{place}/{name}"
            called = task["componentRef"]["name"]
            if called not in components:
                yield f"{where} calls component '{called}', which is not there"
                continue
            yield from (
                f"{where} waits for '{other}', which is not there"
                for other in task.get("dependentTasks", ())
                if other not in tasks
            )
            yield from _inputs(where, task, components, tasks, own)
        for kind in ("parameters", "artifacts"):
            for selector in component["dag"].get("outputs", {}).get(kind, {}).values():
                for source in selector.get("artifactSelectors", [selector.get("valueFromParameter")]):
                    if source and source["producerSubtask"] not in tasks:
                        yield f"{place} answers with '{source['producerSubtask']}', which is not there"


def _inputs(
    where: str,
    task: Mapping[str, Any],
    components: Mapping[str, Any],
    tasks: Mapping[str, Any],
    own: Mapping[str, Any],
) -> Iterator[str]:
    called = components[task["componentRef"]["name"]]
    looped = task.get("parameterIterator", {}).get("itemInput")
    for kind, output_field, own_field, key_field in (
        ("parameters", "taskOutputParameter", "componentInputParameter", "outputParameterKey"),
        ("artifacts", "taskOutputArtifact", "componentInputArtifact", "outputArtifactKey"),
    ):
        given = task.get("inputs", {}).get(kind, {})
        declared = called.get("inputDefinitions", {}).get(kind, {})
        for name, definition in declared.items():
            if name not in (*given, looped) and not definition.get("isOptional"):
                yield f"{where} gives no '{name}'"
        for name, source in given.items():
            if name not in declared:
                yield f"{where} gives '{name}', which component '{task['componentRef']['name']}' does not take"
            if own_field in source and source[own_field] not in own.get(kind, {}):
                yield f"{where}.{name} comes from input '{source[own_field]}', which is not there"
            if output_field not in source:
                continue
            producer, key = source[output_field]["producerTask"], source[output_field][key_field]
            if producer not in tasks:
                yield f"{where}.{name} comes from task '{producer}', which is not there"
                continue
            made_by = components.get(tasks[producer]["componentRef"]["name"], {})
            if key not in made_by.get("outputDefinitions", {}).get(kind, {}):
                yield f"{where}.{name} comes from '{producer}.{key}', which it does not make"
