"""Measure what grows with the number of images beside the search: planning, writing, resuming, table and memory.

    python tests/scale.py 2000 4000 8000            # all steps, with one explanation that is copied to each image
    python tests/scale.py --table 25000 50000 100000  # planning and the table of as many images

Prints seconds of processor time, and the greatest resident memory so far: give the numbers in ascending order.
"""

import argparse
import dataclasses
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
LINKS = 30_000  # names of one file: file systems allow about 65,000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="+", type=int, help="numbers of images")
    parser.add_argument("--table", action="store_true", help="planning and table only")
    options = parser.parse_args()
    for count in options.counts:
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            measure(Path(folder), count, options.table)


def measure(folder: Path, count: int, table_only: bool) -> None:
    from PIL import Image
    from worlds.copying import REQUEST, copying_explainer
    from worlds.tiny_world import road_images

    from blobex.explain.input_images import Sources
    from blobex.explain.many import explain_into
    from blobex.explain.merge import merge_tables
    from blobex.explain.overviews import write_table
    from blobex.explain.request import Output
    from blobex.explain.shards import Shard

    (folder / "photos").mkdir()
    for number in range(count):
        name = folder / "photos" / f"{number:07d}.png"
        if number % LINKS == 0:
            Image.fromarray(road_images(8)[number % 8]).save(name)
            source = name
        else:
            os.link(source, name)
    explainer, output = copying_explainer(), Output(folder / "out")
    report(count, "start", lambda: None)  # memory of the imports and of explaining an image
    report(count, "plan", lambda: Shard(3, 16).settings(Sources.of(folder / "photos").names()))
    if table_only:
        record = explainer.template[0]
        rows = (dataclasses.replace(record, image=str(number)).row() for number in range(count))
        report(count, "table", lambda: write_table(folder / "out", rows))
        (folder / "out" / "settings.json").write_text("{}")
        report(count, "merge", lambda: merge_tables([folder / "out"], folder / "all.parquet"))
        return
    for step in ("write", "resume"):
        report(count, step, lambda: explain_into(explainer, folder / "photos", REQUEST, output))


def report(count: int, step: str, work: Callable[[], object]) -> None:
    start = time.process_time()
    work()
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux
    print(
        f"{count:8d} images  {step:7} {seconds:8.2f} s  {1000 * seconds / count:7.3f} ms/image  {peak:6.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
