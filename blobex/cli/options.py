"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

MODELS = "Models"  # heading of the help
Photos = Annotated[list[Path], Argument(metavar="PHOTO...", help="Images of any size, or folders of images.")]
Setup = Annotated[str, Option(help="Shape of the images: square or rect.")]
GuessedSetup = Annotated[
    str | None,
    Option(help="Shape to explain: square or rect. Default: that nearest to most photos.", rich_help_panel=MODELS),
]
Models = Annotated[
    Path,
    Option(
        help="Folder of the trained networks; without one here or in the project, what `blobex pull` got.",
        rich_help_panel=MODELS,
    ),
]
ParamsFile = Annotated[Path, Option(help="Parameter file; source of all values that no option sets.")]
OwnParamsFile = Annotated[
    Path | None,
    Option(
        help="Parameter file. Default: params.yaml in or beside the folder of networks, or of the project.",
        rich_help_panel=MODELS,
    ),
]
Device = Annotated[
    str | None, Option(help="auto, cpu or cuda. Default: run.device of the parameters.", rich_help_panel=MODELS)
]
REGION_FORMS = "'car ahead', left,top,right,bottom, 'x,y x,y x,y', or a mask file"
