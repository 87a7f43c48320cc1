from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lwplugin.data import DataSpec, Split, fingerprint, load, reading_once
from lwplugin.data.sources import SOURCES
from lwplugin.errors import DataError, RecipeError

X = np.random.default_rng(0).random((60, 4)).astype(np.float32)
Y = np.arange(60) % 3


def everything(split: Split | None, **options: int) -> tuple[np.ndarray, np.ndarray]:
    assert split is not None
    batches = list(split.batches(8, **options))
    inputs = torch.cat([batch.inputs for batch in batches])  # type: ignore[misc]
    return inputs.numpy(), torch.cat(
        [batch.targets for batch in batches if batch.targets is not None]
    ).numpy()


def total(data: object) -> int:
    return sum(len(getattr(data, name)) for name in ("train", "calibration", "test"))


# npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, save: object) -> None:
    save(tmp_path / "a.npz", x=X, y=Y, site=np.arange(60) % 2)  # type: ignore[operator]
    data = load({"source": "npz", "path": tmp_path / "a.npz", "slices": ["site"]})
    assert total(data) == 60
    inputs, labels = everything(data.test)
    assert {tuple(row) for row in inputs} <= {tuple(row) for row in X}
    assert set(data.need("test").slices()) == {"label", "site"}
    assert sorted(np.bincount(labels)) == [4, 4, 4]


def test_npz_files_per_split_and_several_inputs(tmp_path: Path) -> None:
    for name in ("train", "test"):
        np.savez(tmp_path / f"{name}.npz", ids=np.arange(20)[:, None], mask=np.ones((20, 1)), y=Y[:20])
    data = load(
        {
            "source": "npz",
            "train": tmp_path / "train.npz",
            "test": tmp_path / "test.npz",
            "x": ["ids", "mask"],
            "calibration": 4,
        }
    )
    assert set(data.example(2)) == {"ids", "mask"}
    assert len(data.need("train")) == 16


def test_npz_of_which_one_file_holds_the_splits(tmp_path: Path) -> None:
    path = tmp_path / "all.npz"
    np.savez(
        path,
        x_train=X[:40],
        y_train=Y[:40],
        x_test=X[40:],
        y_test=Y[40:],
        site_train=Y[:40],
        site_test=Y[40:],
    )
    data = load({"source": "npz", "path": path, "slices": ["site"], "calibration": 8})
    assert (len(data.need("train")), len(data.need("test")), len(data.need("calibration"))) == (32, 20, 8)
    np.testing.assert_array_equal(everything(data.test)[0], X[40:])
    np.savez(path, x_train=X, x_test=X)
    with pytest.raises(DataError, match=r"no array 'y_train'.*y: null"):
        load({"source": "npz", "path": path})


def test_npz_uncompressed_is_never_loaded_whole(tmp_path: Path) -> None:
    path = tmp_path / "big.npz"
    np.savez(path, x=np.zeros((40_000, 1_000), dtype=np.float32), y=np.arange(40_000) % 2)
    code = (
        "import resource, sys, torch; from lwplugin.data import load\n"
        "import lwplugin.data.sources.npz, lwplugin.data.dataset\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"split = load({{'source': 'npz', 'path': {str(path)!r}}}).need('test')\n"
        "n = sum(1 for _ in split.batches(64, seed=1)); split.head(64)\n"
        "anonymous = [l for l in open('/proc/self/status') if l.startswith('RssAnon')][0].split()[1]\n"
        "print(anonymous)"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(printed) < 450_000  # the interpreter with torch; the 160 MB array is not among it


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a zip", "cannot be read"), (None, "does not exist")],
)
def test_npz_damaged(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load({"source": "npz", "path": tmp_path / "a.npz"})


def test_npz_objects_and_missing_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", x=np.array([{}, {}], dtype=object), y=Y[:2])
    with pytest.raises(DataError, match="numbers only"):
        load({"source": "npz", "path": tmp_path / "objects.npz"})
    np.savez(tmp_path / "names.npz", x=X, y=np.array(["cat", "dog", "elk"])[Y])
    with pytest.raises(DataError, match=r"Labels must be numbers: got names such as 'cat'"):
        everything(load({"source": "npz", "path": tmp_path / "names.npz"}).train)
    np.savez(tmp_path / "a.npz", images=X, y=Y)
    with pytest.raises(DataError, match=r"no array 'image'.*did you mean 'images'"):
        load({"source": "npz", "path": tmp_path / "a.npz", "x": "image"})
    with pytest.raises(RecipeError, match="either 'path' or files per split"):
        load({"source": "npz"})


# parquet


def parquet_file(path: Path, n: int = 1000, group: int = 100) -> np.ndarray:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    x = np.random.default_rng(1).random((n, 3)).astype(np.float32)
    table = pa.table(
        {
            "a": x[:, 0],
            "b": x[:, 1],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 3),
            "kind": [("cat", "dog")[i % 2] for i in range(n)],
            "city": [f"c{i % 4}" for i in range(n)],
        }
    )
    pq.write_table(table, path, row_group_size=group)
    return x


def test_parquet_columns_lists_labels_and_slices(tmp_path: Path) -> None:
    x = parquet_file(tmp_path / "a.parquet")
    spec = {"source": "parquet", "path": tmp_path / "a.parquet", "label": "kind", "calibration": 100}
    data = load({**spec, "features": ["a", "b"], "slices": ["city"]})
    assert total(data) == 1000
    inputs, labels = everything(data.test)
    np.testing.assert_array_equal(np.bincount(labels), [100, 100])
    found = {tuple(row): kind for row, kind in zip(x[:, :2].tolist(), np.arange(1000) % 2)}
    assert all(found[tuple(row)] == label for row, label in zip(inputs.tolist(), labels))
    assert set(data.need("test").slices()) == {"label", "city"}
    vectors = load({**spec, "features": "vector", "shape": [3, 1]})
    assert everything(vectors.train)[0].shape[1:] == (3, 1)
    with pytest.raises(DataError, match=r"got 3 numbers each for the shape \[2, 2\]"):
        everything(load({**spec, "features": "vector", "shape": [2, 2]}).train)
    named = load({**spec, "features": ["a", "b"], "inputs": "dict"})
    assert set(named.example()) == {"a", "b"}


def test_parquet_shuffle_is_complete_seeded_and_reads_each_group_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lwplugin.data.sources.parquet_reader import ParquetReader

    x = parquet_file(tmp_path / "a.parquet")
    data = load(
        {
            "source": "parquet",
            "train": tmp_path / "a.parquet",
            "features": "vector",
            "label": "kind",
            "shuffle_rows": 250,
        }
    )
    split = data.need("train")
    reads: list[int] = []
    reader = split.reader
    assert isinstance(reader, ParquetReader)
    inner = reader._values_of_group
    monkeypatch.setattr(reader, "_values_of_group", lambda group: (reads.append(group), inner(group))[1])
    first, _ = everything(split, seed=3)
    assert len(reads) <= 10 + 5  # ten groups; a batch across two buffers may fetch one again
    again, _ = everything(split, seed=3)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, everything(split, seed=4)[0])
    natural, _ = everything(split)
    assert {tuple(row) for row in first.tolist()} == {tuple(row) for row in natural.tolist()}
    assert len(first) == len(split) < len(x)
    held = sum(len(next(iter(columns.values()))) for columns in reader._cache.values())
    assert held <= 250


def test_parquet_errors(tmp_path: Path) -> None:
    parquet_file(tmp_path / "a.parquet", n=20)
    spec = {"source": "parquet", "path": tmp_path / "a.parquet"}
    with pytest.raises(DataError, match=r"no column 'kid'.*did you mean 'kind'"):
        load({**spec, "features": "a", "label": "kid"})
    with pytest.raises(RecipeError, match=r"data\.features: Field required"):
        load(spec)
    (tmp_path / "b.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        load({**spec, "path": tmp_path / "b.parquet", "features": "a"})


# pictures


def test_image_folder(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for number in range(40):
        folder = tmp_path / ("dark", "light")[number % 2]
        folder.mkdir(exist_ok=True)
        value = (20, 230)[number % 2]
        noise = np.random.default_rng(number).integers(-15, 15, (30, 20, 3))
        image.fromarray((value + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    spec = {"source": "image_folder", "path": tmp_path, "size": [16, 24]}
    data = load(spec)
    inputs, labels = everything(data.train)
    assert inputs.shape[1:] == (3, 16, 24)
    means = inputs.mean(axis=(1, 2, 3))
    assert means[labels == 0].max() < 0 < means[labels == 1].min()
    threaded, _ = everything(load({**spec, "workers": 3}).train)
    np.testing.assert_array_equal(inputs, threaded)
    grey, _ = everything(load({**spec, "mode": "L", "fit": "squash", "mean": [0], "std": [1]}).test)
    assert grey.shape[1] == 1
    assert grey.min() >= 0
    (tmp_path / "dark" / "0.png").write_bytes(b"broken")
    broken = load({**spec, "test_fraction": 0.9}).need("test").reader
    with pytest.raises(DataError, match=r"0\.png' cannot be decoded"):
        broken.read(np.arange(40))


# text


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A word-level tokenizer saved as transformers saves one."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "good", "bad", "film", "very", "the"]
    model = tokenizers.models.WordLevel(
        {word: number for number, word in enumerate(words)}, unk_token="[UNK]"
    )
    fast = tokenizers.Tokenizer(model)
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    directory = tmp_path_factory.mktemp("tokenizer")
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="[PAD]", unk_token="[UNK]")
    made.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "folder"])
def test_text(tmp_path: Path, tokenizer: Path, kind: str) -> None:
    texts = [("good " if n % 2 else "bad ") + "very " * (n % 5) + "film" for n in range(40)]
    labels = ["yes" if n % 2 else "no" for n in range(40)]
    path = tmp_path / f"texts.{kind}"
    if kind == "csv":
        path.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in zip(texts, labels)))
    elif kind == "jsonl":
        path.write_text("".join(f'{{"text": "{t}", "label": "{y}"}}\n' for t, y in zip(texts, labels)))
    elif kind == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"text": texts, "label": labels}), path)
    else:
        for number, (text, label) in enumerate(zip(texts, labels)):
            (path / label).mkdir(parents=True, exist_ok=True)
            (path / label / f"{number}.txt").write_text(text)
    data = load({"source": "text", "path": path, "tokenizer": tokenizer, "max_length": 5, "padding": "batch"})
    batch = next(data.need("train").batches(9, seed=0))
    assert isinstance(batch.inputs, dict)
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    assert ids.shape == mask.shape
    assert ids.shape[1] == mask.sum(dim=1).max() <= 5
    assert (ids[mask == 0] == 0).all()
    assert torch.equal(batch.targets, (ids[:, 0] == 2).long())  # type: ignore[arg-type]
    fixed = load({"source": "text", "path": path, "tokenizer": tokenizer, "max_length": 9})
    assert fixed.example(3)["input_ids"].shape == (3, 9)  # type: ignore[call-overload, index]


def test_text_with_a_label_per_word(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "words.jsonl"
    path.write_text('{"text": ["the", "good film"], "label": ["O", "X"]}\n' * 12)
    spec = {"source": "text", "path": path, "tokenizer": tokenizer, "padding": "batch"}
    data = load(spec, task="token_classification")
    batch = next(data.need("test").batches(2))
    assert batch.targets is not None
    assert batch.targets.tolist() == [[0, 1, -100]] * 2


def test_text_errors(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,labl\nhi,1\n")
    with pytest.raises(DataError, match=r"Row 1 of .* has no 'label'.*did you mean 'labl'"):
        load({"source": "text", "path": path, "tokenizer": tokenizer})
    with pytest.raises(DataError, match=r"tokenizer directory .* does not exist"):
        load({"source": "text", "path": path, "tokenizer": tmp_path / "none"})


# a function of the user's


FUNCTION = """
import numpy as np
def splits(n=30):
    x = np.arange(n, dtype=np.float32)[:, None]
    return {"train": (x, np.arange(n) % 2), "test": (x + 500, np.arange(n) % 2),
            "slices": {"half": {"test": np.arange(n) // (n // 2)}}}
def one():
    return np.arange(50, dtype=np.float32)[:, None], np.arange(50) % 5
def wrong():
    return {"train": (np.zeros((3, 1)), np.zeros(3)), "tests": 1}
"""


def test_module_function(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FUNCTION)
    data = load({"source": f"{path}:splits", "args": {"n": 20}, "slices": ["half"]})
    assert total(data) == 40
    assert data.need("test").slices()["half"].tolist() == [0] * 10 + [1] * 10
    assert total(load(f"{path}:one")) == 50
    with pytest.raises(DataError, match=r"unknown key 'tests'.*did you mean 'test'"):
        load(f"{path}:wrong")
    with pytest.raises(DataError, match=r"no 'splitz'.*did you mean 'splits'"):
        load(f"{path}:splitz")
    with pytest.raises(DataError, match=r"cannot be imported.*PYTHONPATH"):
        load("nowhere.at_all:f")
    before = fingerprint(DataSpec.of(f"{path}:one"))
    path.write_text(FUNCTION + "\n# changed\n")
    assert fingerprint(DataSpec.of(f"{path}:one")) != before


def test_within_a_run_the_same_blocks_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FUNCTION)
    first = load(f"{path}:one")
    with reading_once():
        kept = load(f"{path}:one")
        assert kept is not first
        assert load({"source": f"{path}:one"}) is kept
        assert load({"source": f"{path}:one", "calibration": 3}) is not kept
        assert load(f"{path}:one", "regression") is not kept
        path.write_text(FUNCTION + "\n# changed\n")
        assert load(f"{path}:one") is not kept
    assert load(f"{path}:one") is not load(f"{path}:one")


# the recipe's block


def test_unknown_options_name_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no option 'test_fracton'.*did you mean 'test_fraction'"):
        DataSpec.of({"source": "digits", "test_fracton": 0.1})
    with pytest.raises(RecipeError, match="did you mean 'fashion_mnist'"):
        DataSpec.of("fashion_minst")
    with pytest.raises(RecipeError, match=r"data\.test_fraction.*got 3"):
        DataSpec.of({"source": "digits", "test_fraction": 3})
    with pytest.raises(RecipeError, match="needs a source"):
        DataSpec.of({"seed": 1})
    with pytest.raises(RecipeError, match="no slice columns"):
        load({"source": "digits", "slices": ["night"]})


def test_spec_round_trips_flat_and_has_a_schema() -> None:
    spec = DataSpec.of({"source": "digits", "test_fraction": 0.3, "calibration": 9, "slices": ["label"]})
    assert DataSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert DataSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.model_dump()["test_fraction"] == 0.3
    variants = DataSpec.model_json_schema()["oneOf"]
    assert {variant["title"] for variant in variants} == {*SOURCES, "module:function"}
    for variant in variants:
        assert variant["additionalProperties"] is False
        assert all(
            "description" in field for name, field in variant["properties"].items() if name != "source"
        )


def test_fingerprint_follows_bytes_not_paths(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "a.npz", x=X, y=Y)
    one, two = (
        fingerprint(DataSpec.of({"source": "npz", "path": tmp_path / name / "a.npz"}))
        for name in ("one", "two")
    )
    assert one == two
    np.savez(tmp_path / "two" / "a.npz", x=X + 1, y=Y)
    assert fingerprint(DataSpec.of({"source": "npz", "path": tmp_path / "two" / "a.npz"})) != one


def test_fashion_mnist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        load({"source": "fashion_mnist", "directory": tmp_path})
    if not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("needs dataset-fashion-mnist")
    data = load({"source": "fashion_mnist", "n_train": 2000, "n_test": 500})
    inputs, labels = everything(data.train)
    assert inputs.shape == (1500, 1, 28, 28)
    assert abs(inputs.mean()) < 0.05
    assert abs(inputs.std() - 1) < 0.05
    assert set(labels.tolist()) == set(range(10))
    assert len(data.need("test")) == 500
