"""Commands on a full disk: one sentence, exit code 1, and no old file changed. The disk is a tmpfs."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_input.world import RESULTS, build, run, setting, tree

SIZE = 16 * 2**20

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("world") / "whole")


@pytest.fixture
def disk(world: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a copy of the world on a small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk in memory")
    try:
        shutil.copytree(world, place, dirs_exist_ok=True)
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, left: int = 0) -> None:
    """Fill the disk but for `left` bytes."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        file.truncate(0)
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - left))


COMMANDS = {
    "blobs": "blobex blobs photo.png --out maps",
    "explain": "blobex explain photo.png --out out --attribute stop",
    "explain, published": "blobex explain photo.png --out out --attribute stop --format published",
    "fid": "blobex fid --checkpoint models/blobgan/rect --stats data/fid_stats/rect/scenes_64.npz -n 4 --out fid.json",
    "sweep apply": "blobex sweep apply rect",
    "statistics": "stage fid_stats rect",
    "inversions": "stage invert rect",
    "explanations": "stage explain rect basic",
    "a training": "stage decision rect plain",
    "scenes": "stage scenes",
    "report": "stage report",
}


@pytest.mark.parametrize("left", [0, 8192, 65536])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_full_disk_is_one_sentence(disk: Path, command: str, left: int, capfd: pytest.CaptureFixture[str]) -> None:
    for key, value in {
        "decision.training.steps": 2,
        "decision.training.batch_size": 2,
        "scenes.decision_train": 2000,
        "explain.attributes": ["stop"],
    }.items():
        setting(key, value)(disk)
    if command == COMMANDS["explanations"]:
        shutil.rmtree(disk / RESULTS)
    fill(disk, left)
    before = tree(disk)
    code, message = run(command, disk)
    printed = capfd.readouterr()
    after = tree(disk)
    if code == 0:  # enough space was left
        assert left
        return
    told = [line for line in (printed.err + message).splitlines() if line.startswith("blobex: ")]
    assert code == 1 and len(told) == 1 and "Traceback" not in printed.err, printed
    assert "No space left" in told[0] or "disk" in told[0], told
    assert {name: after.get(name) for name in before} == before  # old files are whole
    assert not [name for name in after if name.endswith(".part")]
