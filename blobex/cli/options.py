"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Photos = Annotated[list[Path], Argument(metavar="PHOTO...", help="Images of any size, or folders of images.")]
Setup = Annotated[str, Option(help="Shape of the images: square or rect.")]
Models = Annotated[Path, Option(help="Folder of the trained networks.")]
ParamsFile = Annotated[Path, Option(help="Parameter file; source of all values that no option sets.")]
Device = Annotated[str | None, Option(help="auto, cpu or cuda. Default: run.device of the parameters.")]
REGION_FORMS = "'car ahead', left,top,right,bottom, 'x,y x,y x,y', or a mask file"
