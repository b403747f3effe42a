"""Shards of a list of images: each image in one of them, and together the results of one command."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import pyarrow.parquet as pq
import pytest
from PIL import Image
from worlds.copying import REQUEST, copying_explainer
from worlds.processes import ROOT, file_contents
from worlds.tiny_models import save_models
from worlds.tiny_world import road_images

from blobex.core.errors import BlobexError
from blobex.explain.many import explain_into
from blobex.explain.merge import merge_tables
from blobex.explain.request import Output
from blobex.explain.shards import Shard

COUNT, SHARDS = 6, 4


@pytest.mark.parametrize(("images", "n"), [(0, 1), (1, 16), (16, 16), (100, 7), (1_000_003, 64)])
def test_every_image_is_in_one_shard(images: int, n: int) -> None:
    parts = [Shard(k, n).numbers(images) for k in range(1, n + 1)]
    assert [number for part in parts for number in part] == list(range(images))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert sorted(Shard(k, n).folder for k in range(1, n + 1)) == [Shard(k, n).folder for k in range(1, n + 1)]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2", "1.5/4", "", "٣/٤"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(BlobexError, match="give K/N with K from 1 to N"):
        Shard.parse(text)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(road_images(COUNT)):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def explained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of all images, and of their shards."""
    out, explainer = tmp_path_factory.mktemp("explained"), copying_explainer()
    explain_into(explainer, photos, REQUEST, Output(out / "whole"))
    for shard in (Shard(k, SHARDS) for k in range(1, SHARDS + 1)):
        explain_into(explainer, photos, REQUEST, Output(out / "shards" / shard.folder), shard=shard)
    return out


@pytest.fixture
def shards(explained: Path, tmp_path: Path) -> Path:
    """A copy of the shards."""
    return shutil.copytree(explained / "shards", tmp_path / "shards")


def test_merged_shards_are_the_whole(explained: Path, tmp_path: Path) -> None:
    rows = merge_tables([explained / "shards"], tmp_path / "all.parquet")
    merged = pq.read_table(tmp_path / "all.parquet")
    assert rows == len(merged) == COUNT
    assert merged.drop_columns("folder").equals(pq.read_table(explained / "whole/explanations.parquet"))
    folders = dict(zip(merged["image"].to_pylist(), merged["folder"].to_pylist(), strict=True))
    for name, folder in folders.items():
        (number,) = Path(folder).glob(f"pictures/*_{Path(name).stem}")
        same = explained / "whole/pictures" / number.name
        assert file_contents(number) == file_contents(same)


def test_separate_results_are_merged_in_the_order_given(explained: Path, photos: Path, tmp_path: Path) -> None:
    explain_into(copying_explainer(), photos / "3.png", REQUEST, Output(tmp_path / "one"))
    given = [tmp_path / "one", explained / "whole"]
    merge_tables(given, tmp_path / "all.parquet")
    merged = pq.read_table(tmp_path / "all.parquet", columns=["image", "folder"]).to_pylist()
    assert merged[0] == {"image": str(photos / "3.png"), "folder": str(given[0])}
    assert [row["folder"] for row in merged] == [str(given[0])] + [str(given[1])] * COUNT


def test_more_shards_than_images(photos: Path, tmp_path: Path) -> None:
    for k in (1, 2, 3):
        output = Output(tmp_path / "out" / Shard(k, 3).folder)
        explain_into(copying_explainer(), photos / "0.png", REQUEST, output, shard=Shard(k, 3))
    assert merge_tables([tmp_path / "out"], tmp_path / "all.parquet") == 1


def test_a_shard_of_another_list_is_refused(shards: Path, photos: Path, tmp_path: Path) -> None:
    """The same shard of a longer list holds other images."""
    longer = shutil.copytree(photos, tmp_path / "longer")
    shutil.copy(longer / "0.png", longer / "z.png")
    explainer, shard = copying_explainer(), Shard(2, SHARDS)
    output = Output(shards / shard.folder)
    with pytest.raises(BlobexError, match=r"results of other settings \(shard.images was 6 and is 7\)"):
        explain_into(explainer, longer, REQUEST, output, shard=shard)
    explain_into(explainer, longer, REQUEST, Output(shards / shard.folder, replace=True), shard=shard)
    refused(shards, tmp_path, "of several lists of images")


def refused(shards: Path, tmp_path: Path, words: str, *more: Path) -> None:
    with pytest.raises(BlobexError, match=words):
        merge_tables([shards, *more], tmp_path / "all.parquet")
    assert not (tmp_path / "all.parquet").exists()


def test_unfinished_and_missing_shards_are_refused(shards: Path, tmp_path: Path) -> None:
    (shards / "2-of-4/explanations.parquet").rename(tmp_path / "table")
    refused(shards, tmp_path, "2-of-4 is not finished")
    (shards / "2-of-4/explanations.parquet").write_bytes(b"half")
    refused(shards, tmp_path, "2-of-4 is not finished")
    shutil.rmtree(shards / "2-of-4")
    refused(shards, tmp_path, "shard 2/4 is missing, of 1")


def test_results_that_do_not_belong_together_are_refused(shards: Path, explained: Path, tmp_path: Path) -> None:
    refused(shards, tmp_path, "4 shards: give each once", shards / "1-of-4")
    refused(shards, tmp_path, "shards and other results cannot be merged", explained / "whole")
    refused(tmp_path / "nothing", tmp_path, "there are no explanations in .*nothing")
    path = shards / "3-of-4/settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 8}))
    refused(shards, tmp_path, r"other settings \(seed was 0 and is 8\)")


def test_a_table_is_not_replaced_by_its_merge(explained: Path) -> None:
    table = explained / "whole/explanations.parquet"
    before = table.read_bytes()
    with pytest.raises(BlobexError, match="give another file"):
        merge_tables([explained / "whole"], table)
    assert table.read_bytes() == before


@pytest.mark.slow
def test_four_processes_explain_shards_at_once(photos: Path, tmp_path: Path) -> None:
    """The commands of an array job, and what one process writes."""
    project = save_models(tmp_path)
    blobex = Path(sys.executable).parent / "blobex"
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}

    def start(*words: str) -> Popen[str]:
        return Popen([blobex, *words], cwd=project, env=environment, stdout=PIPE, stderr=PIPE, text=True)

    def end(process: Popen[str]) -> str:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return out

    command = ["explain", str(photos), "--attribute", "stop", "--steps", "1", "--out"]
    for process in [start(*command, "shards", "--shard", f"{k}/{SHARDS}") for k in range(1, SHARDS + 1)]:
        end(process)
    assert end(start("merge", "shards", "--out", "all.parquet")) == f"all.parquet: {COUNT} rows\n"
    end(start(*command, "whole"))
    merged = pq.read_table(project / "all.parquet")
    assert merged.drop_columns("folder").equals(pq.read_table(project / "whole/explanations.parquet"))
    together = {path.name: path for path in (project / "shards").glob("*/pictures/*")}
    assert len(together) == COUNT
    for path in (project / "whole/pictures").iterdir():
        assert file_contents(together[path.name]) == file_contents(path)
