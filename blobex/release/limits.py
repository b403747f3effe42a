"""What a release cannot do: sentences that hold for every one, and those that follow from its parameters."""

from __future__ import annotations

from blobex.release.facts import Facts


def limits(facts: Facts) -> list[str]:
    """One sentence or two for each limit."""
    size, data = facts.params.setup(facts.setup), facts.params.data
    found = [
        "An explanation is about the driving model, not about the road: it shows a change that this model answers to, "
        "which need not be why a person would decide so.",
        f"Pictures have {size.height}x{size.width} pixels: others are cropped and resized to that, and what is then a "
        "few pixels wide is neither seen nor painted well.",
        "Explanations are no better than the reconstructions they start from; see the measures of `invert` and "
        "`explain`, if there are any above.",
    ]
    if facts.synthetic:
        found.append(
            "Every network was trained on scenes that a program draws, and every measure is of such scenes: nothing "
            "here says how the networks do on photographs."
        )
    else:
        found.append("The terms of the pictures that the networks were trained on may also bind who uses the weights.")
    names = ["pd_parser"] * (data.perceptual == "parser") + ["fd_parser"] * (data.frechet == "parser")
    if names:
        found.append(
            f"The release's own parser stands in the place of VGG and Inception: {' and '.join(names)} compare with no "
            "published LPIPS or FID, and what is trained to please this parser is measured by it, too."
        )
    flawed = [
        network.variant for network in facts.networks if network.stage == "decision" and network.variant != "plain"
    ]
    if flawed:
        found.append(
            f"The decision models {', '.join(flawed)} follow a planted shortcut: they are wrong on purpose, to test "
            "explanations."
        )
    if data.perceptual != "parser":
        found.append(
            f"The perceptual distance needs the weights of {data.perceptual}, which are not part of this release; "
            "`blobex external` says where they belong."
        )
    if facts.imported:
        names = [network.name for network in facts.imported]
        found.append(f"{', '.join(names)}: imported weights stand under the licence of their source.")
    found.append(
        f"Each network was trained once, with seed {facts.params.run.seed}: intervals are over pictures and "
        "explanations, not over trainings."
    )
    return [*found, "These models are for research on explanations. They must not drive anything."]
