"""Shards: parts of a list of images that separate commands explain."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from blobex.core.errors import BlobexError

SHARD = "shard"  # key in settings.json


@dataclass(frozen=True)
class Shard:
    """The k-th of n consecutive parts of a list, of equal length up to one."""

    k: int  # from 1
    n: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read K/N; BlobexError if it is not of this form.

        >>> Shard.parse("3/16")
        Shard(k=3, n=16)
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        k, n = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= k <= n:
            raise BlobexError(f"--shard {text}: give K/N with K from 1 to N, such as 3/16")
        return cls(k, n)

    @property
    def folder(self) -> str:
        """Name of the folder of the results, which sorts like the parts.

        >>> Shard(3, 16).folder
        '03-of-16'
        """
        return f"{self.k:0{len(str(self.n))}}-of-{self.n}"

    def numbers(self, images: int) -> range:
        """Return the numbers of this part of the images.

        >>> [list(Shard(k, 3).numbers(5)) for k in (1, 2, 3)]
        [[0], [1, 2], [3, 4]]
        """
        return range((self.k - 1) * images // self.n, self.k * images // self.n)

    def settings(self, names: Iterable[str]) -> dict[str, Any]:
        """Return what identifies this part of the images named `names`, for settings.json."""
        digest, count = hashlib.sha256(), 0
        for count, name in enumerate(names, 1):  # noqa: B007
            digest.update(f"{name}\n".encode(errors="surrogatepass"))
        return {SHARD: {"part": self.k, "parts": self.n, "images": count, "names": digest.hexdigest()}}
