"""Files of a folder, of a DVC project, whose missing outputs come from its cache or remote, or of an S3 bucket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blobex.core.errors import BlobexError, brief
from blobex.tracking.remote import bucket, check

S3 = "s3://"


@dataclass(frozen=True)
class Source:
    """Files below one place; open it with `open_source`."""

    place: str
    files: Any  # file system of fsspec
    root: str

    def find(self, folder: str) -> list[str]:
        """Return the paths of all files below a folder, relative to the place and sorted; none if it is absent.

        Raises:
            BlobexError: the place cannot be read.
        """
        start = f"{self.root}/" if self.root else ""
        try:
            return sorted(str(path).removeprefix(start) for path in self.files.find(start + folder))
        except FileNotFoundError:
            return []
        except Exception as error:  # of DVC, botocore and the file systems, which share no class
            raise self._unreadable(error) from error

    def copy(self, path: str, to: Path) -> None:
        """Copy a file; missing folders are created.

        Raises:
            BlobexError: it cannot be read.
            OSError: it cannot be written.
        """
        try:
            content = self.files.cat_file(f"{self.root}/{path}" if self.root else path)
        except Exception as error:
            raise self._unreadable(error) from error
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(content)

    def _unreadable(self, error: Exception) -> BlobexError:
        return BlobexError(f"cannot read {self.place} ({brief(error)}): check the place and its remote")


def open_source(place: str, endpoint: str | None = None) -> Source:
    """Return the files of a folder or of s3://bucket/folder.

    Args:
        endpoint: URL of an S3 server other than Amazon's; None: AWS_ENDPOINT_URL, or Amazon's.

    Raises:
        BlobexError: the folder is missing, or the bucket cannot be listed with the credentials that boto3 finds.
    """
    if place.startswith(S3):
        from s3fs import S3FileSystem

        name, _, prefix = place.removeprefix(S3).partition("/")
        target = bucket(name, prefix, endpoint)
        check(target)
        files = S3FileSystem(endpoint_url=endpoint, use_listings_cache=False, skip_instance_cache=True)
        return Source(place, files, "/".join(filter(None, [target.name, target.prefix])))
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise BlobexError(f"there is no folder {place}: give a clone, a release or s3://bucket/folder")
    if (folder / ".dvc").is_dir():
        from dvc.api import DVCFileSystem

        return Source(place, DVCFileSystem(str(folder.resolve())), "")
    from fsspec.implementations.local import LocalFileSystem

    return Source(place, LocalFileSystem(), str(folder.resolve()))
