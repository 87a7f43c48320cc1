"""Where examples come from, how they are split and sliced, and the task that scores them.

Names are imported on first use, so that reading a recipe (``lwplugin.data.spec``) never imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwplugin.lazy import lazily

if TYPE_CHECKING:
    from lwplugin.data.batch import Batch as Batch
    from lwplugin.data.batch import Inputs as Inputs
    from lwplugin.data.batch import call as call
    from lwplugin.data.batch import concatenate as concatenate
    from lwplugin.data.batch import count as count
    from lwplugin.data.batch import map_inputs as map_inputs
    from lwplugin.data.batch import take as take
    from lwplugin.data.batch import tensors as tensors
    from lwplugin.data.batch import to_device as to_device
    from lwplugin.data.contents import fingerprint as fingerprint
    from lwplugin.data.dataset import Data as Data
    from lwplugin.data.dataset import from_arrays as from_arrays
    from lwplugin.data.dataset import load as load
    from lwplugin.data.evaluation import Evaluation as Evaluation
    from lwplugin.data.evaluation import evaluate as evaluate
    from lwplugin.data.evaluation import predict as predict
    from lwplugin.data.kept import reading_once as reading_once
    from lwplugin.data.sources import SOURCES as SOURCES
    from lwplugin.data.spec import TASKS as TASKS
    from lwplugin.data.spec import DataSpec as DataSpec
    from lwplugin.data.spec import TaskSpec as TaskSpec
    from lwplugin.data.split import Split as Split
    from lwplugin.data.task import Task as Task
    from lwplugin.data.task import TaskOptions as TaskOptions
    from lwplugin.data.task import make_task as make_task

__getattr__, __all__ = lazily(
    __name__,
    {
        "batch": "Batch Inputs call concatenate count map_inputs take tensors to_device",
        "dataset": "Data from_arrays load",
        "evaluation": "Evaluation evaluate predict",
        "contents": "fingerprint",
        "kept": "reading_once",
        "sources": "SOURCES",
        "spec": "TASKS DataSpec TaskSpec",
        "split": "Split",
        "task": "Task TaskOptions make_task",
    },
)
