"""What earlier runs left: inversions, statistics, explanations, measures, and sweeps."""

import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from bad_input.config import LAUGHS, MERGES
from bad_input.networks import Payload, bomb
from bad_input.world import (
    INVERSIONS,
    RESULTS,
    STATS,
    Case,
    Harm,
    cut,
    folder_at,
    gone,
    label,
    put,
    saved,
    setting,
    tensors,
)

EXPLAINED = f"{RESULTS}/pictures/0000_scene-06000000"
RECORD, BLOBS = f"{EXPLAINED}/record.json", f"{EXPLAINED}/blobs.safetensors"
TABLE, SETTINGS = f"{RESULTS}/explanations.parquet", f"{RESULTS}/settings.json"
METRICS = "reports/invert/rect/measures.json"
BEST = "reports/sweep_cf/rect/best.yaml"
REPORT = "stage report"


def inversions(name: str, harm: Harm, *words: str) -> Case:
    return Case(f"inversions: {name}", harm, "stage explain rect basic", ("data/invert/rect/inversions.pt", *words))


def inverted(change: Callable[[dict[str, Any]], object]) -> Harm:
    """The file of inversions with changed content."""
    return saved(INVERSIONS, lambda content: (change(content), content)[1])


def others(name: str, change: Callable[[dict[str, Any]], object], *words: str) -> Case:
    """What belongs together, but not to the networks."""
    return Case(f"inversions: {name}", inverted(change), "stage explain rect basic", words)


def statistics(name: str, harm: Harm, *words: str) -> Case:
    command = f"blobex fid --checkpoint models/blobgan/rect --stats {STATS} -n 4"
    return Case(f"statistics: {name}", harm, command, words or (STATS,))


def arrays(**changes: Any) -> Harm:
    """The file of statistics with other arrays; None leaves one out."""

    def harm(folder: Any) -> None:
        with np.load(folder / STATS) as content:
            known = {**content, **changes}
        stream = io.BytesIO()
        np.savez(stream, **{name: value for name, value in known.items() if value is not None})
        put(STATS, stream.getvalue())(folder)

    return harm


def large_array() -> bytes:
    """A mean that says it has 10^15 numbers."""
    stream, array = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("mean.npy", array.getvalue())
    return stream.getvalue()


def explained(name: str, harm: Harm, *words: str, command: str = REPORT) -> Case:
    return Case(f"explanations: {name}", harm, command, words or ("0000_scene-06000000 is damaged",))


def row(key: str, value: Any) -> Harm:
    """Something else in the first explanation of the first picture."""
    return label(RECORD, f"explanations.0.{key}", value)


def table(change: Callable[[pa.Table], pa.Table]) -> Harm:
    def harm(folder: Any) -> None:
        changed = change(pq.read_table(folder / TABLE))
        gone(TABLE)(folder)
        pq.write_table(changed, folder / TABLE)

    return harm


def blobs(change: Callable[[dict[str, torch.Tensor]], object]) -> Harm:
    return tensors(BLOBS, change)


def best(name: str, content: bytes | str, *words: str) -> Case:
    return Case(f"sweep: {name}", put(BEST, content), "blobex sweep apply rect", words or ("best.yaml",))


INVERTED = [
    inversions("none", gone(INVERSIONS)),
    inversions("empty", put(INVERSIONS, b"")),
    inversions("cut off", cut(INVERSIONS)),
    inversions("no PyTorch file", put(INVERSIONS, "nothing\n" * 99)),
    inversions("a folder", folder_at(INVERSIONS)),
    inversions("with code", saved(INVERSIONS, Payload())),
    inversions("a list", saved(INVERSIONS, [1, 2])),
    inversions("a tensor", saved(INVERSIONS, torch.ones(3))),
    inversions("a ZIP bomb", bomb(INVERSIONS)),
    inversions("without names", inverted(lambda content: content.pop("names"))),
    inversions("without blobs", inverted(lambda content: content.pop("layout"))),
    inversions("without sizes", inverted(lambda content: content["layout"].pop("sizes"))),
    inversions("with more", inverted(lambda content: content.update(extra=torch.ones(2)))),
    inversions("a name too few", inverted(lambda content: content["names"].pop())),
    inversions("names that are numbers", inverted(lambda content: content.update(names=[1, 2]))),
    inversions("pictures that are texts", inverted(lambda content: content.update(queries=["a", "b"]))),
    inversions("pictures of another setup", inverted(lambda c: c.update(queries=torch.zeros(2, 3, 64, 64)))),
    inversions("a picture too many", inverted(lambda c: c.update(queries=torch.zeros(3, 3, 32, 64)))),
    inversions("blobs of one picture", inverted(lambda c: c["layout"].update(xs=c["layout"]["xs"][:1]))),
    inversions("another number of blobs", inverted(lambda c: c["layout"].update(xs=torch.zeros(2, 7)))),
    inversions("a measure that is a text", inverted(lambda content: content.update(l2="small"))),
    others("covariances of five numbers", lambda c: c["layout"].update(covs=torch.ones(2, 3, 5)), "another generator"),
    others("features too many", lambda c: c["layout"].update(features=torch.ones(2, 4, 99)), "another generator"),
    others(
        "pictures and reconstructions of another setup",
        lambda c: c.update(queries=torch.zeros(2, 3, 64, 64), image=torch.zeros(2, 3, 64, 64)),
        "are not rect's",
    ),
    inversions("blobs of no numbers", inverted(lambda c: c["layout"].update(xs=torch.full((2, 3), float("nan"))))),
    inversions("no picture", inverted(lambda c: c.update(names=[], queries=torch.zeros(0, 3, 32, 64)))),
]
STATISTICS = [
    statistics("none", gone(STATS)),
    statistics("empty", put(STATS, b"")),
    statistics("cut off", cut(STATS)),
    statistics("a folder", folder_at(STATS)),
    statistics("no ZIP archive", put(STATS, "mean: 0\n")),
    statistics("one array", put(STATS, b"\x93NUMPY\x01\x00" + bytes(200))),
    statistics("of objects", arrays(mean=np.array([Payload()], dtype=object))),
    statistics("without a mean", arrays(mean=None)),
    statistics("a mean of texts", arrays(mean=np.array(["a", "b"]))),
    statistics("a mean of NaN", arrays(mean=np.full(16, np.nan)), STATS, "not finite"),
    statistics("a covariance of another size", arrays(covariance=np.eye(3))),
    statistics("a covariance that is a list", arrays(covariance=np.zeros(16))),
    statistics("a number of pictures that is a list", arrays(images=np.array([1, 2]))),
    statistics("a mean of a petabyte", put(STATS, large_array())),
    statistics("other features", arrays(mean=np.zeros(5), covariance=np.eye(5)), "has 5 features an image"),
    statistics("an unknown network", arrays(network=np.array("resnet")), "unknown feature network 'resnet'"),
    statistics("another setup", arrays(setup=np.array("square")), "no parser weights in", "parser/square"),
    statistics("a setup that leads out", arrays(setup=np.array("../../..")), STATS),
]
RECORDS = [
    explained("none", gone(RESULTS), "there are no explanations in reports/explain"),
    explained("a record that is missing", gone(RECORD)),
    explained("a record that is cut off", cut(RECORD)),
    explained("a record that is too deep", put(RECORD, "[" * 100_000)),
    explained("a record that is a list", put(RECORD, "[]")),
    explained("explanations that are texts", label(RECORD, "explanations.0", "flipped")),
    explained("a score that is a text", row("score_before", "high")),
    explained("a verdict without its ground", row("flipped", None)),
    explained("an unknown field", row("colour", "red")),
    explained("a label that leads out", row("label", "../../../../../../../photo")),
    explained("a label that is a number", row("label", 5)),
    explained("a blob that is a text", row("blobs", ["left"])),
    explained("objects that are texts", row("objects", ["a car"])),
    explained("changes that are a list", row("changes", [1, 2])),
    explained("a column that is a text", row("column", "first")),
    explained("a picture that is missing", gone(f"{EXPLAINED}/query.png")),
    explained("a picture that is cut off", cut(f"{EXPLAINED}/query.png")),
    explained("blobs that are cut off", cut(BLOBS)),
    explained("blobs that are missing", gone(BLOBS)),
    explained("blobs without a key", blobs(lambda content: content.pop("before.xs"))),
    explained("blobs of another number", blobs(lambda content: content.update({"before.xs": torch.zeros(1, 9)}))),
    explained("a pickle in the place of blobs", saved(BLOBS, Payload())),
    explained(
        "a folder that is empty",
        lambda folder: [gone(f"{EXPLAINED}/{p.name}")(folder) for p in (folder / EXPLAINED).iterdir()],
    ),
    explained("no settings", gone(SETTINGS), "cannot read", "settings.json"),
    explained("settings that are too deep", put(SETTINGS, "[" * 100_000), "cannot read", "settings.json"),
    explained("settings of nothing", put(SETTINGS, "{}"), "cannot read", "settings.json"),
    explained("a table that is cut off", cut(TABLE), "cannot read", "explanations.parquet"),
    explained("a table that is empty", put(TABLE, b""), "cannot read", "explanations.parquet"),
    explained("a table of other columns", table(lambda rows: rows.drop(["flipped"])), "explanations.parquet"),
    explained(
        "a table of other types",
        table(
            lambda rows: rows.set_column(
                rows.schema.get_field_index("perceptual"), "perceptual", pa.array(["far"] * rows.num_rows)
            )
        ),
        "explanations.parquet",
    ),
    explained("measures that are cut off", cut(METRICS), "measures.json is damaged"),
    explained("measures that are a list", put(METRICS, "[1]"), "measures.json is damaged"),
    explained("measures that are too deep", put(METRICS, "[" * 100_000), "measures.json is damaged"),
    explained("a measure of 400 digits", put(METRICS, f'{{"l2": {10**400}}}'), "measures.json is damaged"),
    explained("a truth table of Latin-1", put("reports/truth/rect/table.txt", "für".encode("latin-1")), "table.txt"),
    explained(
        "a generator's config that is a list",
        put("models/blobgan/rect/config.yaml", "kind: blobgan\nnetwork: [1]\n"),
        "models/blobgan/rect",
    ),
]
SWEPT = [
    Case("sweep: no best values", gone(BEST), "blobex sweep apply rect", ("best.yaml", "run the sweep first")),
    best("empty", "", "run the sweep first"),
    best("cut off", "values: {explain.rect.steps: ", "run the sweep first"),
    best("Latin-1", "values: {é: 1}".encode("latin-1"), "run the sweep first"),
    best("too deep", "[" * 1200, "run the sweep first"),
    best("a billion laughs", f"{LAUGHS}values: *m\n"),
    best("a billion merges", f"{MERGES}values: *m\n"),
    best("code", "values: !!python/object/apply:os.system ['touch executed']\n", "run the sweep first"),
    best("values that are null", "values: null\n"),
    best("values that are a list", "values: [1, 2]\n"),
    best("values that are a text", "values: steps\n"),
    best("a key that is a number", "values: {5: 1}\n"),
    best("a key that there is not", "values: {explain.rect.stride: 1}\n", "no key explain.rect.stride"),
    best("a key that is a section", "values: {explain.rect: 1}\n", "explain.rect is 1"),
    best("a value that is a text", "values: {explain.rect.steps: many}\n", "explain.rect.steps"),
    best("a value that is a list", "values: {explain.rect.steps: [1, 2]}\n", "explain.rect.steps"),
    best("a value that is a mapping", "values: {explain.rect.steps: {run: 1}}\n", "explain.rect.steps"),
    best("a value out of range", "values: {explain.rect.steps: 0}\n", "explain.rect.steps is 0"),
    best("a value that is no number", "values: {explain.rect.learning_rate: .nan}\n", "explain.rect.learning_rate"),
    Case("sweep: apply to no parameters", gone("params.yaml"), "blobex sweep apply rect", ("params.yaml",)),
    Case(
        "sweep: apply to broken parameters",
        setting("run.seed", "one"),
        "blobex sweep apply rect",
        ("run.seed is 'one'",),
    ),
]
CASES = [*INVERTED, *STATISTICS, *RECORDS, *SWEPT]
