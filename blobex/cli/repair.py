"""Command `blobex repair`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from blobex.cli.options import Models, ParamsFile, Setup


def repair(
    out: Annotated[Path, Option(help="Folder for the repaired model; a stopped repair continues there.")],
    decision: Annotated[Path, Option(help="Folder of the decision model, such as models/decision/rect/night.")],
    results: Annotated[
        list[Path] | None, Argument(metavar="[RESULTS]...", help="Folders of explanations of this model.")
    ] = None,
    feedback: Annotated[
        list[Path] | None, Option(help="File of answers, which the page and the report save; may be given twice.")
    ] = None,
    rule: Annotated[
        str | None, Option(help="Instead of answers: the rule that is right, such as plain, for synthetic scenes.")
    ] = None,
    setup: Setup = "rect",
    models: Models = Path("models"),
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Fine-tune a decision model on its own counterfactuals, with the labels that a person or a rule gives them.

    Training images with the labels that the model was trained on are mixed in. OUT gets the model, which `--decision
    OUT` explains, and metrics.json.
    """
    import json
    import shutil

    from blobex.config.read import load_params
    from blobex.core.files import write_text
    from blobex.datasets.manifest import manifest_path
    from blobex.networks import weights
    from blobex.tracking import runs
    from blobex.truth.repair_folder import RepairJob, corrections_of, repair_model, run_of, trained_on

    values = load_params(params).for_setup(setup)
    job = RepairJob(decision, tuple(results or ()), tuple(feedback or ()), rule)
    variant, corrections = trained_on(decision), corrections_of(job, values, setup, models)
    with runs.run(values, "repair", setup, manifest_path(values.data.root), variant=variant) as tracker:
        model, measures = repair_model(job, corrections, values, setup, out, tracker)
        weights.save(out, "decision", {"setup": setup, "variant": variant, **model.config}, model)
        write_text(out / "metrics.json", json.dumps(measures, indent=2) + "\n")
        tracker.log_metrics(measures)
        for name in ("metrics.json", weights.CONFIG, weights.WEIGHTS):
            tracker.log_artifact(out / name)
        runs.register_repaired(tracker, f"decision-{setup}-{variant}", model.cpu(), run_of(job, values))
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    print(f"learnt from {measures['images']:.0f} images in {values.repair.training.steps} steps")
    print(f"labels that the model follows: {measures['agrees_before']:.1%} -> {measures['agrees']:.1%}")
    print(f"accuracy by its training labels: {measures['accuracy_before']:.2%} -> {measures['accuracy']:.2%}")
    print(out)
