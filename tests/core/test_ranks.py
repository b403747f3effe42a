"""Several processes share the images and write the files of a single process, even if one of them dies."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from worlds.processes import file_contents, run_processes
from worlds.tiny_models import save_models, smooth_images
from worlds.tiny_world import tiny_params

from blobex.config.read import load_params
from blobex.core.device import ALONE
from blobex.datasets.images import to_array, write_png
from blobex.explain.explainer import Explainer
from blobex.inversion.inversion import save_inversion
from blobex.stages import explain

BLOBEX = str(Path(sys.executable).parent / "blobex")
COUNT = 10  # two batches of four pictures and one of two
RESULTS = Path("reports/explain/rect/basic/results")
MORTAL = """
import os, signal
from blobex.explain.results_folder import ResultsFolder
from blobex.stages import common, explain

write, last = ResultsFolder.write, os.environ.get("DIES_AT")

def mortal(self, number, *rest):
    if str(number) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    print("wrote", number, flush=True)
    return write(self, number, *rest)

ResultsFolder.write = mortal
common.run_stage(explain.main, "setup", "variant")
"""
STAGE = "-c", MORTAL, "rect", "basic"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models and inverted images, as the stages before `explain` write them, and photos."""
    folder = save_models(tmp_path_factory.mktemp("project"))
    explainer = Explainer.load("rect", folder / "models", folder / "params.yaml")
    queries = smooth_images(COUNT)
    names = [f"scene_{number}.png" for number in range(COUNT)]
    save_inversion(folder / "data/invert/rect/inversions.pt", names, queries, explainer.invert(queries))
    for name, query in zip(names, queries, strict=True):
        (folder / "photos").mkdir(exist_ok=True)
        write_png(folder / "photos" / name, to_array(query))
    (folder / "photos/damaged.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def expected(project: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Files of a single process, which are then removed."""
    monkeypatch.chdir(project)
    explain.main(load_params(Path("params.yaml")), "rect", "basic")
    found = file_contents(project / "reports")
    shutil.rmtree(project / "reports")
    return found


def wrote(out: str) -> list[int]:
    return [int(line.split()[1]) for line in out.splitlines()]


def test_single_process_has_all_items() -> None:
    assert ALONE.first and all(map(ALONE.has, range(5))) and ALONE.gather(["a", "b"]) == ["a", "b"]
    ALONE.wait()


@pytest.mark.slow
def test_two_processes_write_the_files_of_one(project: Path, expected: dict[str, bytes]) -> None:
    assert {"explain/rect/basic/metrics.json", "explain/rect/basic/results/explanations.parquet"} <= set(expected)
    (project / RESULTS).mkdir(parents=True)
    (project / RESULTS / "settings.json").write_text("{}\n")  # of results with other settings, which are removed
    first, second = run_processes(project, 2, *STAGE)
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert (wrote(first[1]), wrote(second[1])) == ([0, 2, 4, 6, 8], [1, 3, 5, 7, 9])
    assert file_contents(project / "reports") == expected


@pytest.mark.slow
def test_restart_finishes_the_share_of_a_dead_process(project: Path, expected: dict[str, bytes]) -> None:
    shutil.rmtree(project / "reports", ignore_errors=True)
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["run"]["tracking_uri"] = "sqlite:///mlruns/mlflow.db"
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    first, second = run_processes(project, 2, *STAGE, dies=(1, 5))
    assert second[0] == -9 and wrote(second[1]) == [1, 3]
    assert first[0] == 1 and wrote(first[1]) == [0, 2, 4, 6, 8]
    assert first[2].count("\n") == 1 and "another process of this run is gone" in first[2]
    assert not (project / RESULTS / "explanations.parquet").exists()
    first, second = run_processes(project, 2, *STAGE)
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert wrote(first[1]) == [] and wrote(second[1]) == [5, 7, 9]
    assert file_contents(project / "reports") == expected
    assert ended_runs(project) == ["FAILED", "FINISHED"]


def ended_runs(project: Path) -> list[str]:
    """Return the states of the runs of `explain`."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("explain")
    return sorted(run.info.status for run in client.search_runs([experiment.experiment_id]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "photos", "skipped"), [(2, ["photos"], 1), (3, ["photos/scene_0.png", "photos/scene_1.png"], 0)]
)
def test_photos_are_explained_by_torchrun(
    project: Path, tmp_path: Path, size: int, photos: list[str], skipped: int
) -> None:
    """Cases: a folder with a damaged image; fewer photos than processes."""
    command = "explain", *photos, "--attribute", "stop", "--attribute", "left", "--format", "published", "--out"
    (alone,) = run_processes(project, 1, BLOBEX, *command, str(tmp_path / "alone"))
    assert alone[0] == 0, alone[2]
    launch = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), "--no-python", BLOBEX
    (done,) = run_processes(project, 1, *launch, *command, str(tmp_path / "together"))
    assert done[0] == 0, done[2]
    assert done[1].replace("together", "alone") == alone[1]
    assert done[2].count("skipped: ") == skipped
    assert file_contents(tmp_path / "together") == file_contents(tmp_path / "alone")


def test_images_of_the_tiny_world_do_not_fit_into_one_batch() -> None:
    """In one batch, influence between images would go unnoticed."""
    params = tiny_params()
    size = params.setup("rect")
    assert params.search.max_batch_pixels == 4 * size.height * size.width < COUNT * size.height * size.width
