from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lwplugin import __version__
from lwplugin.cli import COMMANDS, invoke
from lwplugin.cli.output import LineProgress, human_bytes, human_count, table
from lwplugin.cli.run import worst
from lwplugin.recipe import load_recipe

RECIPE = """\
model: models:/net@champion
data: {source: digits}
compress: [{quantize: {}}]
targets: [{name: edge-cpu}]
gate: {max_drop: {accuracy: 0.01}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    return file


def test_every_listed_command_exists_and_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        assert invoke([name, "--help"]) == 0
        assert "Usage: lwplugin" in capsys.readouterr().out


def test_help_lists_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert "3 inconclusive" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__
    module = subprocess.run([sys.executable, "-m", "lwplugin", "-V"], capture_output=True, text=True)
    assert module.stdout.strip() == __version__


@pytest.mark.parametrize(
    "arguments",
    [
        ["rnu"],
        ["run"],
        ["run", "--no-such-option", "x"],
        ["measure", "/nowhere", "--recipe", "x"],
        ["--nope"],
    ],
)
def test_usage_errors_exit_with_4(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(arguments) == 4
    found = capsys.readouterr()
    assert "Error" in found.err
    assert found.out == ""


def test_a_misspelt_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    invoke(["rnu"])
    assert "did you mean 'run'" in capsys.readouterr().err


def test_an_error_is_one_line_on_stderr_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["run", "/nowhere/recipe.yaml"]) == 2
    found = capsys.readouterr()
    assert found.err.startswith("error: Recipe /nowhere/recipe.yaml cannot be read")
    assert "Traceback" not in found.err
    assert found.out == ""


@pytest.mark.parametrize("command", ["plan", "run", "report"])
def test_another_model_has_to_be_a_version(
    command: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke([command, str(recipe), "--model", "net"]) == 2
    assert capsys.readouterr().err == (
        "error: Not a model version of a registry: got 'net'. "
        "Do: write models:/<name>@<alias> or models:/<name>/<version>.\n"
    )


def test_a_file_that_cannot_be_written_is_no_unexpected_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "absent" / "recipe.yaml"
    assert invoke(["init", str(file)]) == 2
    assert capsys.readouterr().err == f"error: {file}: No such file or directory.\n"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from lwplugin.errors import RecipeError

    monkeypatch.setenv("LWPLUGIN_DEBUG", "1")
    with pytest.raises(RecipeError):
        invoke(["run", "/nowhere/recipe.yaml"])


def test_init_writes_a_recipe_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lwplugin.methods import families
    from lwplugin.recipe_file import parse_recipe

    file = tmp_path / "recipe.yaml"
    assert invoke(["init", str(file)]) == 0
    if "prune" in families():
        assert parse_recipe(file.read_text()).targets[0].name == "edge-cpu"
    assert invoke(["init", str(file)]) == 2
    assert "--force" in capsys.readouterr().err
    assert invoke(["init", str(file), "--force"]) == 0
    capsys.readouterr()
    assert invoke(["init", "-"]) == 0
    assert capsys.readouterr().out == file.read_text()


def test_init_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["init", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "lwplugin recipe"


def test_methods_lists_families_methods_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    int8 = next(row for row in rows if (row["family"], row["method"]) == ("quantize", "int8"))
    assert int8["default"] is True
    calibrator = next(option for option in int8["options"] if option["name"] == "calibrator")
    assert calibrator["description"]
    assert invoke(["methods", "quantize", "int8"]) == 0
    assert "calibrator" in capsys.readouterr().out
    assert invoke(["methods"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) < 140
    assert invoke(["methods", "quantise"]) == 2
    assert "did you mean 'quantize'" in capsys.readouterr().err


def test_settings_lists_every_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LWPLUGIN_THREADS", "3")
    assert invoke(["settings", "--json"]) == 0
    rows = {row["variable"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert rows["LWPLUGIN_THREADS"] == 3
    assert "LWPLUGIN_STORE" in rows


def test_show_reads_what_a_step_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "verdict.json").write_text('{"status": "pass", "reason": "All hold."}')
    assert invoke(["show", str(tmp_path)]) == 0
    assert "status: pass" in capsys.readouterr().out
    assert invoke(["show", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "verdict"
    (tmp_path / "verdict.json").unlink()
    assert invoke(["show", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["promote", "models:/net", "--alias", "a", "--reason", "r"],
        ["promote", "models:/net@a", "--alias", "a", "--reason", "r"],
        ["rollback", "models:/net/1"],
    ],
)
def test_versions_and_aliases_are_not_confused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(arguments) == 2
    assert "write models:/" in capsys.readouterr().err


def test_gate_judges_a_comparison_again_and_exits_by_its_verdict(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = tmp_path / "comparison"
    comparison.mkdir()
    (comparison / "comparison.json").write_text('{"candidate": null, "baseline": null}')
    junit = ("--junit", str(tmp_path / "build" / "gate.xml"))
    assert (
        invoke(["gate", str(comparison), "--recipe", str(recipe), "--json", "-o", str(tmp_path), *junit]) == 2
    )
    assert json.loads(capsys.readouterr().out)["status"] == "error"
    assert (tmp_path / "verdict.json").is_file()
    assert "<testsuite" in (tmp_path / "build" / "gate.xml").read_text()
    assert invoke(["gate", str(comparison), "--recipe", str(recipe), "--target", "edge-gpu"]) == 2
    assert "edge-cpu" in capsys.readouterr().err
    recipe.write_text(RECIPE.replace("[{name: edge-cpu}]", "[{name: small}, {name: large}]"))
    assert invoke(["gate", str(comparison), "--recipe", str(recipe)]) == 2
    assert "several targets. Do: say --target small|large" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "fail"], "fail"),
        (["fail", "error"], "error"),
        ([], "error"),
    ],
)
def test_of_several_targets_the_worst_counts(verdicts: list[str], expected: str) -> None:
    assert worst(verdicts) == expected


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, lwplugin.cli as c; c.invoke(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pydantic", "rich", "yaml", "asyncio"} & set(done.stderr.split())


def test_tables_line_up() -> None:
    lines = table([("a", "bb"), ("ccc", "d")]).splitlines()
    assert [line.index(cell) for line, cell in zip((lines[0], lines[2]), ("bb", "d"))] == [5, 5]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (human_bytes(999), "999 B"),
        (human_bytes(38_200), "38.2 kB"),
        (human_bytes(1.5e9), "1.5 GB"),
        (human_count(272_474), "272 k"),
        (human_count(7), "7"),
    ],
)
def test_sizes_are_shown_in_powers_of_a_thousand(shown: str, expected: str) -> None:
    assert shown == expected


def test_progress_in_a_log_is_sparse(capsys: pytest.CaptureFixture[str]) -> None:
    quiet, chatty = LineProgress(sys.stderr), LineProgress(sys.stderr, every_s=0)
    for done in range(100):
        quiet("fine-tune", done, 100)
    assert capsys.readouterr().err == ""
    chatty("fine-tune", 3, 100)
    assert capsys.readouterr().err == "  … fine-tune 3/100\n"


def test_explain_lists_every_key_of_a_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["explain", "data", "image_folder"]) == 0
    shown = capsys.readouterr().out
    assert "size           224" in shown
    assert "test_fraction" in shown
    assert invoke(["explain", "task", "multi_label", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["key"] for row in found["options"]] == ["output", "threshold"]
    assert "F1" in found["about"]


def test_explain_knows_every_block_of_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    from lwplugin.cli.explain import BLOCKS
    from lwplugin.recipe import Recipe

    names = {field.alias or name for name, field in Recipe.model_fields.items()}
    assert names == set(BLOCKS) - {"budget"}
    for block in BLOCKS:
        assert invoke(["explain", block]) == 0
    assert invoke(["explain", "gat"]) == 2
    assert "did you mean 'gate'" in capsys.readouterr().err
    assert invoke(["explain", "data", "parqet"]) == 2
    assert "did you mean 'parquet'" in capsys.readouterr().err


def test_the_recipes_of_the_manual_are_recipes(tmp_path: Path) -> None:
    manual = (Path(__file__).parents[3] / "docs" / "recipe.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", manual, re.DOTALL)
    sources = re.findall(r"^\| `(\{source.*?\})` \|", manual, re.MULTILINE)
    assert (len(blocks), len(sources)) == (2, 5)
    blocks += [re.sub(r"data: .*", f"data: {source}", blocks[0]) for source in sources]
    for number, text in enumerate(blocks):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text, encoding="utf-8")
        load_recipe(file)


def test_a_table_is_as_wide_as_its_terminal_and_whole_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("key", "what it is"), ("path", "One file that holds the examples of every split there is.")]
    monkeypatch.delenv("COLUMNS", raising=False)
    whole = table(rows).splitlines()
    assert whole[2] == "path  One file that holds the examples of every split there is."
    monkeypatch.setenv("COLUMNS", "40")
    wrapped = table(rows).splitlines()
    assert max(map(len, wrapped)) <= 40
    assert wrapped[2:] == ["path  One file that holds the examples", "      of every split there is."]
