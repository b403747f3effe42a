"""Responses of the server as JSON, and requests from JSON."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from blobex.app.studio import Drawing, Scene, Studio
from blobex.app.wire import WireQuestion, WireScene, from_image, from_layout, short_name, to_image, to_layout
from blobex.config.explain import VARIANTS
from blobex.config.keys import PLAIN_NAMES
from blobex.core.errors import BlobexError
from blobex.datasets.images import to_array, to_float, to_tensor
from blobex.explain.explanation import Explanation
from blobex.explain.record_files import finite
from blobex.explain.request import Request
from blobex.explain.step import needed
from blobex.perception.regions import is_name


def model(studio: Studio, decision: str | None) -> dict[str, Any]:
    """Describe the networks and the options of the page."""
    explainer, canvas = studio.explainer(decision), studio.generator.generator.canvas
    height, width = studio.size
    some = 0.0 if explainer.decision.kind == "regression" else None
    plan = explainer.plan(Request(explainer.decision.outputs[:1], at_least=some))
    return {
        "setup": studio.setup,
        "height": height,
        "width": width,
        "stretch": canvas.aspect_ratio if canvas.legacy else 1,  # horizontal scale of outlines
        "names": list(studio.names),
        "decisions": list(studio.decisions),
        "decision": decision or studio.decisions[0],
        "kind": explainer.decision.kind,
        "outputs": list(explainer.decision.outputs),
        "variants": list(VARIANTS),
        "keys": list(PLAIN_NAMES),
        "steps": plan.search.steps,
        "parser": explainer.parser is not None,
    }


def drawing(drawn: Drawing) -> dict[str, Any]:
    """Convert a drawing to JSON."""
    return {
        "picture": from_image(to_array(drawn.image)),
        "outlines": drawn.outlines,
        "areas": drawn.areas,
        "said": drawn.probabilities,
        "owners": base64.b64encode(drawn.owners.astype("<i2").tobytes()).decode("ascii"),
        "rows": drawn.owners.shape[0],
        "columns": drawn.owners.shape[1],
    }


def wire_scene(scene: Scene) -> dict[str, Any]:
    """Convert a scene to JSON, as WireScene without the decision."""
    photo = None if scene.photo is None else from_image(to_array(scene.photo))
    layout = from_layout(scene.layout)
    return {"name": scene.name, "photo": photo, "start": from_layout(scene.start), "layout": layout}


def to_scene(wire: WireScene, studio: Studio) -> Scene:
    """Convert the page's scene; BlobexError if it does not fit this setup."""
    network = studio.generator.network
    sizes = network.blobs, network.feature_dim, network.style_dim
    photo = None if wire.photo is None else to_float(to_tensor(to_image(wire.photo, *studio.size)))
    return Scene(short_name(wire.name), photo, to_layout(wire.start, *sizes), to_layout(wire.layout, *sizes))


def request(question: WireQuestion, kind: str) -> Request:
    """Convert a question to a request. A region is in question for segmentation, else it is the one that may change."""
    box, only, numbers = None, question.thing, question.region
    if numbers is not None:
        if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
            raise BlobexError("a region is left, top, right, bottom, or x and y of three or more corners")
        if question.thing is not None:
            raise BlobexError("both a region and an object are given: give one of them")
        if kind == "segmentation" and len(numbers) == 4:
            box = numbers[0], numbers[1], numbers[2], numbers[3]
        else:
            points = [numbers] if len(numbers) == 4 else [numbers[n : n + 2] for n in range(0, len(numbers), 2)]
            only = " ".join(",".join(f"{number:.6f}" for number in point) for point in points)
    if question.thing is not None and not is_name(question.thing):
        raise BlobexError("an object is named by letters, such as car ahead")  # so that no file of the server is read
    options = {name: value for name, value in vars(question).items() if name not in ("attribute", "region", "thing")}
    attributes = None if question.attribute is None else [question.attribute]
    return Request(attributes=attributes, region=box, only=only, **options)


def explained(records: Sequence[Explanation], archive: bytes, names: Sequence[str], kind: str) -> dict[str, Any]:
    """Convert explanations and the zip file of their results to JSON; `names` are those of the blobs."""
    explanations = [_explanation(record, names, kind) for record in records]
    return {"explanations": finite(explanations), "zip": base64.b64encode(archive).decode("ascii")}


def _explanation(record: Explanation, names: Sequence[str], kind: str) -> dict[str, Any]:
    # What a person may call right or wrong: decisions of yes or no.
    decided = record.score_after > 0.5 if kind == "attributes" and not record.failed else None
    changes = []
    for change in record.blobs:
        name = "background" if change.blob is None else names[change.blob]
        changes.append({"blob": change.blob, "name": name, "words": f"{name}{change.words.removeprefix(change.name)}"})
    return {
        "attribute": record.attribute,
        "number": record.number,
        "from": record.from_class,
        "to": record.to_class,
        "verdict": f"{record.verdict}, in doubt" if record.doubt else record.verdict,
        "flipped": record.verdict == "flipped" and not record.doubt,
        "decided": decided,
        "score_before": record.score_before,
        "score_after": record.score_after,
        "said_before": record.scores_before.tolist(),
        "said_after": record.scores_after.tolist(),
        "sentence": f"not to be trusted, as {record.doubt}: {record.sentence}" if record.doubt else record.sentence,
        "gate": record.gate,
        "changes": changes,
        "step": record.step,
        "steps": [
            step.as_dict() | {"name": "background" if step.blob is None else names[step.blob]} for step in record.steps
        ],
        "needed": needed(record.steps),
        "before": from_image(record.query),
        "reconstruction": from_image(record.reconstruction),
        "after": from_image(record.counterfactual),
        "layout": from_layout(record.blobs_after),
    }
