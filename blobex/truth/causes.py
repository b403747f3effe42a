"""Causes among the phrases of all models: their effects on fresh scenes, and how the benchmark reports them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from blobex.config.params import Params
from blobex.decisions.load import load
from blobex.explain.explainer import Explainer
from blobex.explain.loading import decided
from blobex.metrics.interval import Interval, flat
from blobex.scenes.rules import PLAIN, RULES
from blobex.truth.effects import PhraseEffect, effect_rank, fresh_scenes, image_pairs, phrase_effects, top_phrases
from blobex.truth.measures import is_shortcut
from blobex.truth.results import TruthResults

METHOD = "ours"  # whose phrases are verified
Effects = Mapping[str, Sequence[PhraseEffect]]  # by rule


def verify_phrases(params: Params, setup: str, models: Path, results: TruthResults, folder: Path) -> Effects:
    """Measure the effects of the most frequent phrases of each rule's model on `truth.fresh_scenes` fresh scenes.

    All models decide the same images. `folder` keeps those of the generator; a stopped run continues there.
    """
    options = params.truth
    rules = [rule for rule in results.rows if rule in RULES and METHOD in results.rows[rule]]
    if not options.fresh_scenes or not rules:
        return {}
    honest = results.rows[PLAIN.name][METHOD]
    phrases = {
        rule: top_phrases(results.rows[rule][METHOD], [] if rule == PLAIN.name else honest, options.phrases)
        for rule in rules
    }
    changes = sorted({phrase.split(": ", 1)[1] for own in phrases.values() for phrase in own})
    scenes = fresh_scenes(options.fresh_scenes, params.scenes.seed)
    explainer = Explainer.load(setup, models, params, decision=str(models / "decision" / setup / PLAIN.name))
    pairs = image_pairs(changes, scenes, params.scenes.height, explainer, folder)
    effects = {}
    for rule in rules:
        explained = str(models / "decision" / setup / rule)
        model = load(explained, params.setup(setup), explainer.device, models, setup)
        outputs = decided(model, explainer.device, explainer.batch_size)
        effects[rule] = phrase_effects(rule, phrases[rule], pairs, outputs)
    return effects


def effect_metrics(effects: Effects) -> dict[str, float]:
    """Return for each rule the number of verified phrases, the shortcut's rank and that of its best phrase's effect."""
    values: dict[str, float] = {}
    for rule, own in effects.items():
        key = f"{rule}_{METHOD}"
        values[f"{key}_verified"] = float(sum(each.verified for each in own))
        values[f"{key}_interventions"] = float(len(own))
        rank = effect_rank(own, rule)
        if rank is not None:
            best = next(each for each in own if is_shortcut(each.phrase, rule))
            shares = {"necessity": best.effect.necessity, "sufficiency": best.effect.sufficiency}
            known = {f"{key}_{name}": share for name, share in shares.items() if share is not None}
            values |= {f"{key}_effect_rank": float(rank)}
            values |= flat({f"{key}_effect": best.effect.effect, f"{key}_excess": best.excess} | known)
    return values


def effect_lines(rule: str, effects: Sequence[PhraseEffect]) -> list[str]:
    """Describe what was verified about one rule's model, for table.txt."""
    rank = effect_rank(effects, rule)
    lines = [f"phrases whose effect exceeds that of the plain rules, of {len(effects)} tried on fresh scenes:"]
    for each in (each for each in effects if each.verified):
        shares = ((each.effect.necessity, "necessary"), (each.effect.sufficiency, "sufficient"))
        told = [f"{name} {_text(share)}" for share, name in shares if share is not None]
        by = "renderer" if each.renderer else "generator"
        lines.append(
            f"  {each.phrase}: {_text(each.effect.effect)} on {each.scenes} scenes, beyond the rules "
            f"{_text(each.excess)}; {', '.join(told)}; by the {by}; {each.frequency_rank}. by frequency"
        )
    if len(lines) == 1:
        lines.append("  none")
    if rule != PLAIN.name:
        lines.append(f"shortcut's rank by effect: {rank or 'none'}")
    return lines


def _text(value: Interval) -> str:
    return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"
