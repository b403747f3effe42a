"""What the server answers, as JSON holds it."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

from blobex.app.studio import Drawing, Scene, Studio
from blobex.app.wire import WireQuestion, WireScene, from_layout, from_picture, short_name, to_layout, to_picture
from blobex.config.explain import VARIANTS
from blobex.core.errors import BlobexError
from blobex.counterfactual.masks import PLAIN_NAMES
from blobex.datasets.images import to_array, to_float, to_tensor
from blobex.explain.explanation import Explanation
from blobex.explain.request import Request


def model(studio: Studio, decision: str | None) -> dict[str, Any]:
    """What the page has to know before it shows anything."""
    explainer, canvas = studio.explainer(decision), studio.generator.generator.canvas
    height, width = studio.size
    plan = explainer.plan(Request())
    return {
        "setup": studio.setup,
        "height": height,
        "width": width,
        "stretch": canvas.aspect_ratio if canvas.legacy else 1,  # of outlines, from left to right
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


def drawing(found: Drawing) -> dict[str, Any]:
    return {
        "picture": from_picture(to_array(found.picture)),
        "outlines": found.outlines,
        "areas": found.areas,
        "said": found.said,
        "owners": base64.b64encode(found.owners.astype("<i2").tobytes()).decode("ascii"),
        "rows": found.owners.shape[0],
        "columns": found.owners.shape[1],
    }


def wire_scene(scene: Scene) -> dict[str, Any]:
    """What WireScene reads, but for the decision."""
    photo = None if scene.photo is None else from_picture(to_array(scene.photo))
    layout = from_layout(scene.layout)
    return {"name": scene.name, "photo": photo, "start": from_layout(scene.start), "layout": layout}


def to_scene(wire: WireScene, studio: Studio) -> Scene:
    """The scene that the page sent; BlobexError if it is not of this setup."""
    network = studio.generator.network
    sizes = network.blobs, network.feature_dim, network.style_dim
    photo = None if wire.photo is None else to_float(to_tensor(to_picture(wire.photo, *studio.size)))
    return Scene(short_name(wire.name), photo, to_layout(wire.start, *sizes), to_layout(wire.layout, *sizes))


def request(question: WireQuestion, kind: str) -> Request:
    """What a question means to the explainer. A segmentation model is asked about the region, others look there."""
    box, only = None, question.thing
    if question.region is not None:
        numbers = question.region
        if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
            raise BlobexError("a region is left, top, right, bottom, or x and y of three or more corners")
        if question.thing is not None:
            raise BlobexError("a place is drawn and named: give one of them")
        if kind == "segmentation" and len(numbers) == 4:
            box = numbers[0], numbers[1], numbers[2], numbers[3]
        else:
            points = [numbers] if len(numbers) == 4 else [numbers[n : n + 2] for n in range(0, len(numbers), 2)]
            only = " ".join(",".join(f"{number:.6f}" for number in point) for point in points)
    if question.thing is not None and not re.fullmatch("[A-Za-z ]*[A-Za-z][A-Za-z ]*", question.thing):
        raise BlobexError("an object is named by letters, such as car ahead")  # and never is the name of a file
    return Request(
        attributes=None if question.attribute is None else [question.attribute],
        region=box,
        replaced=question.replaced,
        variant=question.variant,
        keys=question.keys,
        blobs=question.blobs,
        only=only,
        background=question.background,
        few=question.few,
        count=question.count,
        compose=question.compose,
        steps=question.steps,
        lambda_prox=question.lambda_prox,
        learning_rate=question.learning_rate,
    )


def explained(found: Sequence[Explanation], archive: bytes, names: Sequence[str]) -> dict[str, Any]:
    """The explanations and the zip with all about them."""
    return {
        "explanations": [explanation(each, names) for each in found],
        "zip": base64.b64encode(archive).decode("ascii"),
    }


def explanation(found: Explanation, names: Sequence[str]) -> dict[str, Any]:
    changes = [
        {"blob": each.blob, "name": name, "words": f"{name}{each.words.removeprefix(each.name)}"}
        for each in found.blobs
        for name in ["background" if each.blob is None else names[each.blob]]
    ]
    return {
        "attribute": found.attribute,
        "number": found.number,
        "from": found.from_class,
        "to": found.to_class,
        "verdict": found.verdict,
        "flipped": found.verdict == "flipped",
        "score_before": found.score_before,
        "score_after": found.score_after,
        "said_before": found.scores_before.tolist(),
        "said_after": found.scores_after.tolist(),
        "sentence": found.sentence,
        "gate": found.gate,
        "changes": changes,
        "step": found.step,
        "before": from_picture(found.query),
        "reconstruction": from_picture(found.reconstruction),
        "after": from_picture(found.counterfactual),
        "layout": from_layout(found.blobs_after),
    }
