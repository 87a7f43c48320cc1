"""Texts through a tokenizer: csv, jsonl or parquet with a text and a label column, or a folder per class."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from lwplugin.data.sources.base import Parts, Request, Source, SourceOptions, absent, file_digest, tree_digest
from lwplugin.data.sources.labels import class_names, encode
from lwplugin.data.sources.npz import check_files
from lwplugin.data.sources.text_files import Texts, check_texts, read_texts, text_files
from lwplugin.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import numpy as np

    from lwplugin.data.split import Split

_ROLES = ("path", "train", "test", "calibration_file")


class TextOptions(SourceOptions):
    """Options of the text source."""

    path: Path | None = Field(None, description="A file, or a folder of class folders of .txt files; split.")
    train: Path | None = Field(None, description="File or folder of training texts.")
    test: Path | None = Field(None, description="File or folder of test texts.")
    calibration_file: Path | None = Field(None, description="File or folder of calibration texts.")
    text: str = Field(
        "text",
        description="Column of the text; for token labels a column of lists of words (jsonl, parquet).",
    )
    label: str | None = Field("label", description="Column of the label; null for none. Folders need none.")
    encoding: str = Field("utf-8", description="Encoding of csv, jsonl and .txt files.")
    tokenizer: Path = Field(description="Directory of a Hugging Face tokenizer; nothing is downloaded.")
    max_length: int = Field(128, ge=1, description="Tokens kept of each text.")
    padding: Literal["batch", "fixed"] = Field(
        "fixed",
        description="Pad always to max_length, as an exported file needs it, or to the longest of a batch.",
    )
    token_type_ids: bool = Field(False, description="Give the model token_type_ids too (all zero).")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="Share of 'path' drawn for testing.")

    @model_validator(mode="after")
    def _some_file(self) -> TextOptions:
        check_files("text", self.path, self.train, self.test, self.calibration_file)
        return self


def read(options: TextOptions, request: Request) -> Parts:
    """Inputs {input_ids, attention_mask}, int64 [n, tokens]; token ids are held in memory, texts are not.

    Label names are numbered in sorted order. For the task token_classification the label column holds
    one label per word; a word's first token carries it, the others are −100.
    """
    from lwplugin.data.sources.token_reader import TokenReader
    from lwplugin.data.split import Split

    check(options, request)
    tokenizer = _tokenizer(options.tokenizer)
    roles = {
        "train": options.train,
        "calibration": options.calibration_file,
        "test": options.test,
        "examples": options.path,
    }
    texts = {
        name: read_texts(path, options.text, options.label, options.encoding, request.slices)
        for name, path in roles.items()
        if path is not None
    }
    classes = _all_classes(next(iter(texts.values())), request.token_labels)

    def split(name: str) -> Split | None:
        if name not in texts:
            return None
        held = texts[name]
        where = str(roles[name])
        reader = TokenReader(
            held.texts,
            _targets(held, classes, where, request.token_labels),
            tokenizer,
            max_length=options.max_length,
            fixed=options.padding == "fixed",
            token_type_ids=options.token_type_ids,
        )
        return Split(name, reader, slices=held.slices)

    return Parts(
        train=split("train"),
        calibration=split("calibration"),
        test=split("test"),
        whole=split("examples"),
        test_fraction=options.test_fraction,
    )


def check(options: TextOptions, request: Request) -> None:
    """Refuses absent files, a first row without the columns asked for, and no tokenizer."""
    if not options.tokenizer.is_dir():
        do = "save one there with tokenizer.save_pretrained(directory)"
        raise absent("tokenizer directory", options.tokenizer, do=do)
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError("transformers", extra="text", why="Reading texts")
    for role in _ROLES:
        path = getattr(options, role)
        if path is not None:
            check_texts(path, options.text, options.label, options.encoding, request.slices)


def contents(source: str, options: TextOptions) -> Any:
    """Digests of the texts and of the tokenizer's files."""
    files = {}
    for role in _ROLES:
        path = getattr(options, role)
        if path is not None:
            files[role] = tree_digest(path, text_files(path)) if path.is_dir() else file_digest(path)
    tokenizer = sorted(path for path in options.tokenizer.glob("*") if path.is_file() and _of_tokenizer(path))
    return {
        "files": files,
        "tokenizer": tree_digest(options.tokenizer, tokenizer),
        **options.model_dump(mode="json", exclude={*_ROLES, "tokenizer"}),
    }


def _of_tokenizer(path: Path) -> bool:
    # A tokenizer often lies beside a model's weights, which say nothing about the examples.
    return path.suffix in (".json", ".txt", ".model", ".jinja") and "index" not in path.name


def _tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"'{directory}' holds no tokenizer that can be read",
            got=error,
            do="save one there with tokenizer.save_pretrained(directory)",
        ) from error


def _all_classes(texts: Texts, token_labels: bool) -> tuple[str, ...] | None:
    import numpy as np

    if texts.labels is None:
        return None
    values = [label for row in texts.labels for label in row] if token_labels else texts.labels
    return class_names(np.asarray(values))


def _targets(
    texts: Texts, classes: tuple[str, ...] | None, where: str, token_labels: bool
) -> np.ndarray | list[np.ndarray] | None:
    import numpy as np

    if texts.labels is None:
        return None
    if token_labels:
        return [encode(np.asarray(row), classes, where).astype(np.int64) for row in texts.labels]
    return encode(np.asarray(texts.labels), classes, where)


SOURCE: Source = Source("text", TextOptions, read, check, contents, "texts through a local tokenizer")
