"""What dvc.yaml makes of a setup, and whether the files are still those that dvc.lock records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from blobex.core.errors import BlobexError
from blobex.networks.import_weights import PROVENANCE


@dataclass(frozen=True)
class Part:
    """What a stage makes of a setup, and perhaps of a variant."""

    stage: str
    variant: str
    key: str  # what DVC calls it, such as explain@rect-basic
    description: str
    outputs: tuple[Path, ...]  # but for the measures
    metrics: Path
    params: Mapping[str, Any]  # by dotted names, as dvc.lock records them

    @property
    def name(self) -> str:
        return f"{self.stage} {self.variant}".strip()

    @property
    def network(self) -> bool:
        return self.metrics.parts[0] == "models"

    @property
    def files(self) -> tuple[Path, ...]:
        """What a release holds of it."""
        provenance = self.metrics.with_name(PROVENANCE)
        own = (*self.outputs, *([provenance] if provenance.is_file() else [])) if self.network else ()
        return (*own, self.metrics)

    def imported(self) -> dict[str, Any]:
        """Where a network comes from that was not trained here; else nothing. BlobexError if that is damaged."""
        path = self.metrics.with_name(PROVENANCE)
        try:
            return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path in self.files else {}
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            raise BlobexError(f"{path} is damaged: import the weights again") from error

    def measures(self) -> dict[str, float]:
        """The numbers in its metrics.json; BlobexError if that is missing or damaged."""
        try:
            content = json.loads(self.metrics.read_text(encoding="utf-8"))
            return {str(name): float(value) for name, value in content.items()}
        except FileNotFoundError as error:
            raise BlobexError(f"{self.metrics} is missing: run `dvc pull`, or `dvc repro {self.key}`") from error
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise BlobexError(f"{self.metrics} is damaged: run `dvc pull`, or `dvc repro {self.key}`") from error


@dataclass(frozen=True)
class Pipeline:
    """The contents of dvc.yaml, dvc.lock and params.yaml."""

    stages: Mapping[str, Any]
    recorded: Mapping[str, Any]  # by what DVC calls a part
    params: Mapping[str, Any]

    @classmethod
    def read(cls) -> Pipeline:
        """That of the present folder; BlobexError if one of the files is missing or damaged."""
        stages, recorded, params = _read("dvc.yaml"), _read("dvc.lock"), _read("params.yaml")
        return cls(stages.get("stages") or {}, recorded.get("stages") or {}, params)

    def parts(self, setup: str) -> Iterator[Part]:
        """All that is measured of a setup, in the order of dvc.yaml."""
        for stage, entry in self.stages.items():
            matrix = {name: self._values(values) for name, values in entry.get("matrix", {}).items()}
            for variant in matrix.get("variant", [""]) if setup in matrix.get("setup", []) else []:
                text = json.dumps(entry).replace("${item.setup}", setup).replace("${item.variant}", variant)
                filled, key = json.loads(text), f"{stage}@{setup}" + (f"-{variant}" if variant else "")
                outputs = tuple(Path(path) for path in filled.get("outs", []) if isinstance(path, str))
                for metrics in filled.get("metrics", []):
                    yield Part(stage, variant, key, filled["desc"], outputs, Path(metrics), self._params_of(key))

    def fault(self, key: str) -> str | None:
        """What speaks against a part's files; None where nothing does.

        They must be the recorded ones, made with the parameters as they are, of the recorded outputs of other stages,
        for which the same holds.
        """
        if key not in self.recorded:
            return f"dvc.lock does not record {key}"
        for name, value in self._params_of(key).items():
            if _at(self.params, name) != value:
                return f"{key} did not run with {name} as params.yaml has it"
        for path, (maker, md5) in self._outputs.items():
            if maker == key and self._present.get(path, md5) != md5:
                return f"{path} is not the file that dvc.lock records"
        for source in self.recorded[key].get("deps", []):
            maker, md5 = self._outputs.get(source["path"], ("", ""))
            if maker and md5 != source.get("md5"):
                return f"{key} was made of another {source['path']}"
            deeper = self.fault(maker) if maker else None
            if deeper:
                return deeper
        return None

    @cached_property
    def _outputs(self) -> dict[str, tuple[str, str]]:
        """Which part makes each output, and its recorded MD5."""
        outputs = ((key, out) for key, entry in self.recorded.items() for out in entry.get("outs", []))
        return {out["path"]: (key, str(out.get("md5"))) for key, out in outputs}

    @cached_property
    def _present(self) -> dict[str, str]:
        """The MD5 of each output that is a file and is there; that is how DVC knows files, and protects from nobody."""
        files = (path for path in self._outputs if Path(path).is_file())
        return {path: hashlib.md5(Path(path).read_bytes(), usedforsecurity=False).hexdigest() for path in files}

    def _params_of(self, key: str) -> Mapping[str, Any]:
        return self.recorded.get(key, {}).get("params", {}).get("params.yaml") or {}

    def _values(self, values: Any) -> list[str]:
        """A list of dvc.yaml, or that which a ${name} of params.yaml stands for."""
        return list(_at(self.params, values[2:-1]) or [] if isinstance(values, str) else values)


def _read(name: str) -> Mapping[str, Any]:
    try:
        return dict(yaml.safe_load(Path(name).read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise BlobexError(f"there is no {name} here: go where the pipeline ran, or run `dvc repro`") from error
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise BlobexError(f"{name} is damaged: take it from git again") from error


def _at(tree: Any, name: str) -> Any:
    """The value at a dotted name; None where there is none."""
    for key in name.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
