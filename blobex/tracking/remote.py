"""An S3 bucket as DVC's remote and as the place of MLflow's files: the only module that knows boto3 and DVC."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blobex.config.write import Changes, rewritten
from blobex.core.errors import BlobexError

REMOTE = "s3"  # its name in .dvc/config
PATIENCE = 5  # seconds until a bucket counts as out of reach
NAME = re.compile(r"[A-Za-z0-9._-]{3,63}")
PREFIX = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)
ENDPOINT = re.compile(r"https?://[A-Za-z0-9._\[\]:-]+(/[\w./-]*)?", re.ASCII)
REFUSED = {  # S3's error codes that `_reason` explains; their texts differ from server to server
    "NoSuchBucket": "there is no such bucket: create it, or check its name and the endpoint",
    "InvalidAccessKeyId": "the access key is unknown there: check AWS_ACCESS_KEY_ID or the profile",
    "SignatureDoesNotMatch": "the secret key does not fit the access key: check AWS_SECRET_ACCESS_KEY or the profile",
    "InvalidToken": "the session token is not accepted: get new credentials",
    "ExpiredToken": "the credentials have expired: get new ones",
    "AccessDenied": "the credentials may not list it: ask its owner for leave to list, read and write",
}


@dataclass(frozen=True)
class Place:
    """Folders in a bucket; build it by `place`, which checks the names."""

    bucket: str
    prefix: str  # without slashes at its ends; may be empty
    endpoint: str | None  # of a server that is not Amazon's

    @property
    def dvc(self) -> str:
        return self._folder("dvc")

    @property
    def artifacts(self) -> str:
        return self._folder("mlruns")

    def _folder(self, name: str) -> str:
        return "s3://" + "/".join(filter(None, [self.bucket, self.prefix, name]))

    def __str__(self) -> str:
        return f"the bucket {self.bucket}" + (f" at {self.endpoint}" if self.endpoint else "")


def place(bucket: str, prefix: str, endpoint: str | None) -> Place:
    """BlobexError if one of the names cannot be one."""
    if not NAME.fullmatch(bucket):
        raise BlobexError(f"{bucket!r} is no bucket: give its bare name, and a folder in it as the prefix")
    prefix = prefix.strip("/")
    if prefix and not PREFIX.fullmatch(prefix):
        raise BlobexError(f"the prefix {prefix!r} is no folder: give letters, digits and _ . - with / between")
    if endpoint and not ENDPOINT.fullmatch(endpoint):
        raise BlobexError(f"the endpoint {endpoint!r} is no address of a server: give http://host:port")
    return Place(bucket, prefix, endpoint or None)


def switch(to: Place, params: Path = Path("params.yaml")) -> Changes:
    """Make `to` DVC's default remote, and the place of the files of MLflow's new runs; see `rewritten`.

    Other remotes stay defined. BlobexError, and nothing is written: the bucket does not answer to the credentials that
    boto3 finds, the parameter file is damaged, or the working directory belongs to no DVC project.
    """
    from dvc.config import Config
    from dvc.exceptions import DvcException

    check(to)
    values = {"run.artifacts": to.artifacts, "run.s3_endpoint": to.endpoint}
    remote = {"url": to.dvc} | ({"endpointurl": to.endpoint} if to.endpoint else {})
    try:
        with rewritten(params, values) as changes, Config.from_cwd().edit("repo") as config:
            config["remote"][REMOTE] = remote
            config["core"]["remote"] = REMOTE
    except (DvcException, OSError) as error:
        raise BlobexError(
            f"DVC's remote cannot be set ({error}): run this where .dvc/config and params.yaml are"
        ) from error
    return changes


def check(there: Place) -> None:
    """BlobexError unless the bucket answers to the credentials that boto3 finds; nothing in it is read or written."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    patience = Config(connect_timeout=PATIENCE, read_timeout=PATIENCE, retries={"total_max_attempts": 2})
    try:
        client = boto3.session.Session().client("s3", endpoint_url=there.endpoint, config=patience)
        answer = client.list_objects_v2(Bucket=there.bucket, Prefix=there.prefix, MaxKeys=1)
    except (BotoCoreError, ClientError, ResponseParserError, ValueError) as error:
        raise BlobexError(f"{there} cannot be used: {_reason(error)}") from error
    if "Name" not in answer:  # which every list of objects says: this is a page of a website
        raise BlobexError(f"{there} cannot be used: what answers there is no S3 server; check the endpoint")


def _reason(error: Exception) -> str:
    """What is wrong and what to do, in words that do not depend on the server."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        answer: dict[str, Any] = error.response.get("Error", {})
        told = textwrap.shorten(f"{answer.get('Code')} {answer.get('Message') or ''}", 200)
        return REFUSED.get(
            answer.get("Code", ""), f"it answers {told!r}; check its name, the endpoint and your credentials"
        )
    if isinstance(error, exceptions.NoCredentialsError):
        return "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    told = textwrap.shorten(str(error), 200)
    if isinstance(error, exceptions.ConnectionError | exceptions.HTTPClientError):
        return f"nobody answers there ({told}); check the endpoint and the network"
    return f"{told}; check the endpoint and your credentials"
