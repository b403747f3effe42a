"""What a tracking server that does not answer should have been told, kept on this machine until it does.

mlruns/pending/<run>/ is a run: run.json says which one, log.jsonl has a line for each call of its tracker, and files/
what the calls sent.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydantic.dataclasses
import torch

from blobex.config.read import parse
from blobex.config.value_types import SECTION, Int, Text
from blobex.core.errors import BlobexError
from blobex.core.files import read_json
from blobex.tracking.tracker import Tracker

PENDING = Path("mlruns") / "pending"
RUN, LOG, FILES = "run.json", "log.jsonl", "files"
CALLS = (
    "log_params",
    "log_metrics",
    "log_text",
    "log_dataset",
    "log_image",
    "log_table",
    "log_artifact",
    "log_model",
    "end",
)


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class Planned:
    """A run: all that it takes to begin it, or to find it again."""

    store: Text  # the server's URI, without a password
    stage: Text
    name: Text
    tags: dict[Text, Text]  # whose work it is: the setup's, the variant's, a run's that it belongs to
    values: dict[Text, Text]  # its parameters
    marks: dict[Text, Text]  # other tags: of this time's process and code
    run_id: Text | None  # None: the server does not know it yet
    begun: Int  # in milliseconds since 1970

    def goes_on_as(self, other: Planned) -> bool:
        """Whether the other is the same work; the server may have known this run only."""
        again = dataclasses.replace(other, marks=self.marks, begun=self.begun, run_id=other.run_id or self.run_id)
        return again == self


class Kept:
    """The calls of one run. While this object lives, no other process writes or sends them."""

    def __init__(self, folder: Path) -> None:
        """Of a folder that is there; BlockingIOError if another process has it, OSError if it is gone."""
        self.folder = folder
        self._file = (folder / LOG).open("r+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.planned = parse(Planned, read_json(folder / RUN), RUN)
        except BaseException:
            self.close()
            raise

    @classmethod
    def begin(cls, planned: Planned) -> Kept:
        """What a killed process kept of the same run, or a new folder."""
        for kept in listed(planned.store):
            if kept.planned.goes_on_as(planned) and not any(name == "end" for name, _ in kept.calls()):
                kept._file.write(b"\n")  # it may have been killed within a line
                return kept
            kept.close()
        folder = PENDING / f"{planned.name}-{uuid.uuid4().hex[:12]}"
        hidden = folder.with_name(f".{folder.name}")  # until it is whole
        hidden.mkdir(parents=True)
        (hidden / LOG).touch()
        (hidden / RUN).write_text(json.dumps(dataclasses.asdict(planned), indent=2) + "\n", encoding="utf-8")
        kept = cls(hidden)
        kept.folder = hidden.rename(folder)
        return kept

    def keep(self, call: str, arguments: Mapping[str, Any]) -> None:
        """Note one of `CALLS`; files, pictures and networks among the arguments are copied."""
        plain = {name: self._plain(value) for name, value in arguments.items()}
        self._file.seek(0, 2)
        self._file.write(json.dumps({"call": call, "with": plain}).encode() + b"\n")
        self._file.flush()

    def calls(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """All calls in their order; a line within which the process was killed is no call."""
        self._file.seek(0)
        for line in self._file.read().splitlines():
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if content["call"] in CALLS:
                yield content["call"], {name: self._value(each) for name, each in content["with"].items()}

    def remove(self) -> None:
        """They have been sent."""
        shutil.rmtree(self.folder)
        self.close()

    def close(self) -> None:
        """Let others have them."""
        self._file.close()

    def _plain(self, value: Any) -> Any:
        if isinstance(value, Path):
            place = self._place(value.name)
            shutil.copy(value, place)
            return {"file": self._name(place)}
        if isinstance(value, np.ndarray):
            place = self._place("picture.npy")
            np.save(place, value)
            return {"picture": self._name(place)}
        if isinstance(value, torch.nn.Module):
            place = self._place("network.pt")
            torch.save(value, place)
            return {"network": self._name(place)}
        return {"value": value}

    def _value(self, kept: Mapping[str, Any]) -> Any:
        if "file" in kept:
            return self.folder / FILES / kept["file"]
        if "picture" in kept:
            return np.load(self.folder / FILES / kept["picture"], allow_pickle=False)
        if "network" in kept:  # of a class of ours or of torchvision's, pickled by `_plain`
            return torch.load(self.folder / FILES / kept["network"], map_location="cpu", weights_only=False)
        return kept["value"]

    def _place(self, name: str) -> Path:
        folder = self.folder / FILES / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return folder / name

    def _name(self, place: Path) -> str:
        return place.relative_to(self.folder / FILES).as_posix()


def listed(store: str) -> Iterator[Kept]:
    """All that is kept for a store, the oldest first, but for what another process is writing or sending."""
    for folder in sorted(PENDING.glob("[!.]*/"), key=lambda folder: folder.stat().st_mtime):
        try:
            kept = Kept(folder)
        except BlockingIOError:
            continue
        except (OSError, ValueError, BlobexError):
            print(f"blobex: {folder} is damaged and cannot be sent: look into it, and remove it", file=sys.stderr)
            continue
        if kept.planned.store == store:
            yield kept
        else:
            kept.close()


class PatientTracker:
    """A run of a server that may go away: what it cannot be told is kept, and the work goes on."""

    def __init__(self, tracker: Tracker | None, planned: Planned, lost: Callable[[Exception], bool]) -> None:
        """`tracker` is None if the server does not answer now; `lost` knows the errors of one that does not."""
        self._tracker, self._lost = tracker, lost
        self._planned = dataclasses.replace(planned, run_id=tracker.run_id if tracker else planned.run_id)
        self.kept = None if tracker else self._begin()

    @property
    def run_id(self) -> str | None:
        return self._planned.run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        self._call("log_params", params={key: str(value) for key, value in params.items()})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        numbers = {key: float(value) for key, value in metrics.items()}
        self._call("log_metrics", metrics=numbers, step=step, moment=now())

    def log_text(self, text: str, name: str) -> None:
        self._call("log_text", text=text, name=name)

    def log_dataset(self, name: str, digest: str, source: str) -> None:
        self._call("log_dataset", name=name, digest=digest, source=source)

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        self._call("log_image", key=key, image=image, step=step)

    def log_table(self, columns: Mapping[str, list[Any]], name: str) -> None:
        self._call("log_table", columns={key: list(values) for key, values in columns.items()}, name=name)

    def log_artifact(self, path: Path) -> None:
        self._call("log_artifact", path=path)

    def log_model(self, model: torch.nn.Module, name: str, height: int, width: int) -> None:
        self._call("log_model", model=model, name=name, height=height, width=width)

    def end(self, status: str) -> None:
        self._call("end", status=status, moment=now())
        if self.kept:
            self.kept.close()

    def _call(self, call: str, /, **arguments: Any) -> None:
        if self.kept is None:
            try:
                getattr(self._tracker, call)(**arguments)
                return
            except Exception as error:
                if not self._lost(error):
                    raise
            self.kept = self._begin()
        self.kept.keep(call, arguments)

    def _begin(self) -> Kept:
        kept = Kept.begin(self._planned)
        self._planned = kept.planned
        place = f"{kept.folder} keeps what it should know, until a later run or `blobex sync` sends it"
        print(f"blobex: {self._planned.store} does not answer: {place}", file=sys.stderr)
        return kept


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
