"""Explanation of any number of images into a folder, in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from blobex.core.device import ALONE, Ranks
from blobex.explain.explainer import Explainer
from blobex.explain.explanation import Explanation
from blobex.explain.input_images import Image
from blobex.explain.request import Output, Request
from blobex.explain.results_folder import ResultsFolder
from blobex.explain.shards import Shard

BATCHES = 8  # of images that are decoded at once


def explain_into(
    explainer: Explainer,
    images: Image | Sequence[Image],
    request: Request,
    output: Output,
    ranks: Ranks = ALONE,
    shard: Shard | None = None,
) -> Iterator[Explanation]:
    """Explain images as `Explainer.explain` does, but decode them when their turn comes and keep no explanation.

    A damaged file that was named is therefore an error after those before it were explained; they are kept.

    Args:
        shard: Part of the images that is explained; None: all of them.

    Returns:
        The explanations, read image by image; in other processes than the first, none.

    Raises:
        BlobexError: As `Explainer.explain`.
    """
    plan, sources = explainer.plan_images(images, request)
    settings = explainer.settings(plan, output.gif) | ({} if shard is None else shard.settings(sources.names()))
    numbers = range(len(sources)) if shard is None else shard.numbers(len(sources))
    own, at_once = list(filter(ranks.has, numbers)), BATCHES * explainer.batch_size
    size, folder = explainer.params.setup(explainer.setup), None
    written: list[tuple[int, str]] = []
    for first in range(0, max(1, len(own)), at_once):
        share = sources.load(own[first : first + at_once], size.height, size.width, explainer.foreign)
        settled = explainer.settled(share.queries, plan)
        folder = folder or ResultsFolder.open(output, settings, ranks)  # not before the first images are accepted
        invert = explainer.inverter(share, settled, folder)
        folder.fill(share, partial(explainer.explain_each, share, invert, plan, output.gif))
        written += share.numbered
    assert folder is not None
    written = sorted(ranks.gather(written))
    if shard is None:  # a shard may hold nothing but damaged files
        sources.check_readable([number for number, _ in written])
    folder.finish(written, output.published, ranks)
    return folder.read(written if ranks.first else ())
