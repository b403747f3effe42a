"""External weight files: search order, checksums and error messages."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from imports import ROOT
from typer.testing import CliRunner

from blobex.cli import main as cli
from blobex.config.params import Params
from blobex.config.read import parse
from blobex.core.errors import BlobexError
from blobex.networks import external
from blobex.networks.external import FILES, locate, read_tensors, require, survey, table


@pytest.fixture(autouse=True)
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create an empty folder of torch's own downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def fill(folder: Path, key: str, content: bytes = b"weights") -> Path:
    """Write a file under its expected name."""
    path = folder / FILES[key].name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("key", FILES)
def test_folder_is_searched_before_the_downloads(key: str, tmp_path: Path, downloads: Path) -> None:
    folder = tmp_path / "external"
    assert locate(key, folder) is None
    second = fill(downloads, key)
    assert locate(key, folder) == second == require(key, folder)
    first = fill(folder, key)
    assert locate(key, folder) == first == require(key, folder)


@pytest.mark.parametrize("key", FILES)
def test_error_for_a_missing_file_names_its_path_and_the_alternative(key: str, tmp_path: Path) -> None:
    file = FILES[key]
    with pytest.raises(BlobexError) as error:
        require(key, tmp_path)
    message = str(error.value)
    assert (
        file.name in message and str(tmp_path / file.name) in message and message.endswith(f", or {file.alternative}")
    )
    assert "\n" not in message


def test_parameter_values_named_in_the_table_are_valid() -> None:
    """Parse every `section.name: value` and every `set section.name to value` of the table as parameters."""
    named = []
    for file in FILES.values():
        for key, values in re.findall(r"(\w+\.\w+): ([\w ]+)", file.needed_by):
            named += [(key, value) for value in values.split(" or ")]
        named += re.findall(r"set (\w+\.\w+) to (\w+)", file.alternative)
    assert ("data.frechet", "inception_clean") in named and ("data.perceptual", "parser") in named
    for key, value in named:
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        section, name = key.split(".")
        values[section][name] = value
        parse(Params, values)


def test_survey_compares_checksums(tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = hashlib.sha256(b"weights").hexdigest()
    files = dict(FILES) | {"vgg": replace(FILES["vgg"], checksum=good[:8])}
    monkeypatch.setattr(external, "FILES", files)
    fill(tmp_path, "vgg")
    fill(downloads, "alex", b"cut short")
    fill(tmp_path, "inception")
    status = survey(tmp_path)
    assert {key: value.state for key, value in status.items()} == {
        "vgg": "present",
        "alex": "damaged",
        "squeeze": "missing",
        "inception": "present",
        "simsiam": "missing",
    }
    assert status["vgg"].sha256 == status["inception"].sha256 == good
    assert status["alex"].path == downloads / FILES["alex"].name
    assert status["squeeze"].sha256 is None and status["squeeze"].path == tmp_path / FILES["squeeze"].name
    text = table(tmp_path)
    assert re.search(
        r"alex +damaged +needed by data\.perceptual: alex\n.*\n +SHA-256 \w{64}, published 7be5be79\n", text
    )
    assert re.search(rf"inception +present .*\n.*\n +SHA-256 {good}, no published checksum\n", text)
    assert re.search(r"squeeze +missing .*\n.*\n +published b8a52dc0; https://\S+squeezenet1_1-b8a52dc0\.pth\n", text)


def test_command_surveys_the_folder_in_the_parameters(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["data"]["external"] = str(tmp_path / "elsewhere")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    result = CliRunner().invoke(cli.app, ["external", "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 0, result.output
    assert result.stdout == table(tmp_path / "elsewhere") + "\n"
    assert all(str(tmp_path / "elsewhere" / file.name) in result.stdout for file in FILES.values())


class Harmful:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("harm"),)


def test_read_tensors_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(2)}, "good.pth")
    assert torch.equal(read_tensors(Path("good.pth"), "weights")["a"], torch.ones(2))
    torch.save({"a": Harmful()}, "harmful.pth")
    Path("empty.pth").write_bytes(b"")
    Path("short.pth").write_bytes(Path("good.pth").read_bytes()[:100])
    for name in ("harmful.pth", "empty.pth", "short.pth"):
        with pytest.raises(BlobexError, match=f"{name} is damaged: put the weights there again"):
            read_tensors(Path(name), "the weights")
    assert not Path("harm").exists()
    torch.save([torch.ones(2)], "list.pth")
    with pytest.raises(BlobexError, match="holds no tensors by name"):
        read_tensors(Path("list.pth"), "the weights")
    with pytest.raises(BlobexError, match=r"none\.pth is missing: put the weights at none\.pth"):
        read_tensors(Path("none.pth"), "the weights")
