"""The model card of a release: Markdown, with the YAML in front that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

import blobex
from blobex.release.facts import Facts, trainings
from blobex.release.half import LIMIT, SAMPLES
from blobex.release.limits import limits

TAGS = ["blobgan", "counterfactual-explanations", "explainable-ai", "driving", "safetensors"]
TASKS = {"decision": "image-classification", "parser": "image-segmentation"}  # stages that the hub has a word for
HUB_METRICS = ("accuracy", "f1")
ENDS = ("_low", "_high", "_count")  # of a measure's interval, behind its name
FOLDED = 40  # rows; a longer table is closed at first
ROLES = {
    "blobgan": "paints pictures of blobs, and makes blobs of random numbers",
    "blobgan_pretrain": "the BlobGAN before it met a discriminator, and what reads blobs off segments",
    "encoder": "says where an inversion begins, from the picture alone",
    "parser": "sees objects, and measures perceptual distance",
    "decision": "the driving model that is explained: forward, stop, left, right",
}


def card(facts: Facts, checksums: Mapping[str, str]) -> str:
    """The text of README.md. `checksums` are the SHA-256 of the release's other files, by their paths."""
    sections = [
        _front(facts),
        _head(facts),
        "## Use",
        _use(facts),
        "## Data",
        *_data(facts),
        "## Training",
        *_training(facts),
        "## Measures",
        *_measures(facts),
        "## Limits",
        "\n".join(f"- {limit}" for limit in limits(facts)),
        "## Files",
        *_files(facts, checksums),
    ]
    return "\n\n".join(sections) + "\n"


def _front(facts: Facts) -> str:
    front: dict[str, Any] = {"license": facts.license} if facts.license else {}
    if facts.license == "other":
        front["license_name"], front["license_link"] = "see-license", "LICENSE"
    measured = [network for network in facts.networks if network.stage in TASKS and network.measures]
    names = {name for network in measured if network.stage == "decision" for name in network.measures}
    front |= {"library_name": "blobex", "tags": TAGS}
    front["metrics"] = [name for name in HUB_METRICS if name in names]
    results = [
        {
            "task": {"type": TASKS[network.stage]},
            "dataset": {"type": facts.params.data.source, "name": facts.params.data.root, "config": network.name},
            "metrics": [{"type": name, "value": value} for name, value in network.measures.items()],
        }
        for network in measured
    ]
    front["model-index"] = results and [{"name": f"{facts.name}-{facts.setup}", "results": results}]
    kept = {key: value for key, value in front.items() if value}
    return f"---\n{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)}---"


def _head(facts: Facts) -> str:
    size = facts.params.setup(facts.setup)
    rows = [(network.name, ROLES[network.stage], _origin(network.imported)) for network in facts.networks]
    absent = f"\n\nNot in this release: {', '.join(facts.absent)}." if facts.absent else ""
    return (
        f"# {facts.name}-{facts.setup}\n\n"
        f"Networks of blobex {blobex.__version__} for pictures of {size.height}x{size.width}. Together they answer "
        "what would have to be different in a picture for a driving model to decide otherwise.\n\n"
        + table(["network", "what it does", "comes from"], rows)
        + absent
    )


def _origin(imported: Mapping[str, Any] | None) -> str:
    if imported is None:
        return "trained with blobex"
    return f"imported from {imported.get('file')}, SHA-256 {imported.get('sha256')}"


def _use(facts: Facts) -> str:
    setup = facts.setup
    return (
        f"From the folder that holds this one, which is called `{setup}` here:\n\n"
        "```python\n"
        "from blobex.explainer import Explainer\n"
        f'print(Explainer.load("{setup}", "{setup}/models", "{setup}/params.yaml").explain("photo.jpg", ["stop"]))\n'
        "```\n\n"
        "```bash\n"
        f"blobex explain photo.jpg --out explained --setup {setup} "
        f"--models {setup}/models --params {setup}/params.yaml\n"
        "```"
    )


def _data(facts: Facts) -> list[str]:
    data, scenes = facts.params.data, facts.params.scenes
    version = "no version of it is recorded" if facts.data_hash == "unversioned" else f"version {facts.data_hash}"
    if not facts.synthetic:
        return [f"Pictures of `{data.root}`, read as `{data.source}` ({version} by DVC)."]
    text = (
        f"Synthetic road scenes, drawn by blobex's stage `scenes` with seed {scenes.seed} at "
        f"{scenes.height}x{2 * scenes.height} (`{data.root}`, {version} by DVC)."
    )
    splits = {"objects": "detection", "segments": "segmentation", "decisions": "decision"}
    rows = [
        (labels, *(str(getattr(scenes, f"{split}_{part}", "")) for part in ("train", "val", "test")))
        for labels, split in splits.items()
    ]
    return [text, table(["labels", "training", "validation", "test"], rows)]


def _training(facts: Facts) -> list[str]:
    rows = list[Sequence[str]]()
    for network in facts.networks:
        for name, training in [] if network.imported else trainings(facts.params, network.stage):
            seen = training.steps * training.batch_size * training.accumulate
            halving = f"halved every {training.halve_every} steps" if training.halve_every else "constant"
            rate = f"{training.learning_rate:g}, {halving}"
            label = f"{name} {network.variant}".strip()
            rows.append((label, str(training.steps), f"{training.batch_size * training.accumulate}", str(seen), rate))
    heads = ["training", "steps", "batch", "samples seen", "learning rate"]
    run, unrecorded = facts.params.run, [network.name for network in facts.networks if not network.recorded]
    recorded = "dvc.lock records that these parameters, this data and these networks were used."
    if unrecorded:
        recorded = f"Read off `params.yaml`; of {', '.join(unrecorded)} no dvc.lock records that it is what was used."
    text = f"Seed {run.seed}, precision `{run.precision}` (auto: bfloat16 where the machine computes in it). {recorded}"
    return [text, *([table(heads, rows)] if rows else []), _runs(facts)]


def _runs(facts: Facts) -> str:
    rows = [(name, run.run_id, run.commit, f"{run.seconds / 60:.1f}") for name, run in facts.runs.items()]
    silent = [network.name for network in facts.networks if network.name not in facts.runs]
    note = f"MLflow has no run that logged the weights of {', '.join(silent)}." if silent else ""
    if facts.commit != "none":
        note = f"{note} Released at git commit {facts.commit}.".strip()
    if not rows:
        return note
    heads = ["network", "MLflow run", "git commit", "minutes from the run's first moment to its last"]
    return f"{table(heads, rows)}\n\n{note}".strip()


def _measures(facts: Facts) -> list[str]:
    parts = ["As the stages wrote them to `metrics.json`: with 95% intervals where they tell the values behind a mean."]
    for network in facts.networks:
        if network.measures:
            parts += [f"### {network.name}", measure_table(network.measures)]
    for each in facts.measured:
        note = "" if each.recorded else "No dvc.lock records that these networks were measured.\n\n"
        parts += [f"### {each.name}", note + measure_table(each.measures)]
    silent = [f"{network.name} (not measured)" for network in facts.networks if not network.measures]
    silent += [f"{name} ({reason})" for name, reason in facts.missing.items()]
    return [*parts, f"Missing here: {', '.join(silent)}."] if silent else parts


def measure_table(measures: Mapping[str, float]) -> str:
    """One row per measure; an interval and the number of values behind it stand in the row of their mean."""
    rows = [
        (f"`{name}`", number(value), _interval(measures, name), _count(measures, name))
        for name, value in measures.items()
        if not any(name.endswith(end) and name.removesuffix(end) in measures for end in ENDS)
    ]
    found = table(["measure", "value", "95% interval", "values"], rows)
    if len(rows) <= FOLDED:
        return found
    return f"<details><summary>{len(rows)} measures</summary>\n\n{found}\n\n</details>"


def _interval(measures: Mapping[str, float], name: str) -> str:
    low, high = (measures.get(f"{name}{end}") for end in ENDS[:2])
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def _count(measures: Mapping[str, float], name: str) -> str:
    count = measures.get(f"{name}_count")
    return "" if count is None else number(count)


def _files(facts: Facts, checksums: Mapping[str, str]) -> list[str]:
    parts = ["`sha256sum -c SHA256SUMS` checks them all.", table(["file", "SHA-256"], list(checksums.items()))]
    if not facts.halved:
        return [*parts, "All weights are stored as they were trained."]
    text = (
        "Parameters are stored in half precision and computed with in float32: what differs is measured on the outputs "
        f"for {SAMPLES} pictures that the BlobGAN paints, relative to each output's largest number. A network that "
        f"errs by more than {LIMIT:.0%} is stored as it was trained."
    )
    rows = [
        (name, "half" if each.half else "as trained", f"{each.error:.2g}", f"{each.bytes:,}")
        for name, each in facts.halved.items()
    ]
    return [*parts, text, table(["network", "stored", "largest relative error in half precision", "bytes"], rows)]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar within a cell stays a bar."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def number(value: float) -> str:
    """Four significant digits, whole numbers as they are."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"
