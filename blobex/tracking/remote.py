"""S3 bucket as DVC's remote and as the store of MLflow's artifacts."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blobex.config.write import Changes, rewrite_values
from blobex.core.errors import BlobexError

REMOTE = "s3"  # its name in .dvc/config
TIMEOUT = 5  # seconds
NAME = re.compile(r"[A-Za-z0-9._-]{3,63}")
PREFIX = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)
ENDPOINT = re.compile(r"https?://[A-Za-z0-9._\[\]:-]+(/[\w./-]*)?", re.ASCII)
ADVICE = {  # by S3's error code, as the texts differ from server to server
    "NoSuchBucket": "there is no such bucket: create it, or check its name and the endpoint",
    "InvalidAccessKeyId": "the access key is unknown there: check AWS_ACCESS_KEY_ID or the profile",
    "SignatureDoesNotMatch": "the secret key does not fit the access key: check AWS_SECRET_ACCESS_KEY or the profile",
    "InvalidToken": "the session token is not accepted: get new credentials",
    "ExpiredToken": "the credentials have expired: get new ones",
    "AccessDenied": "the credentials may not list it: ask its owner for leave to list, read and write",
}


@dataclass(frozen=True)
class Bucket:
    """Folder of an S3 bucket; build it with `bucket`, which checks the names."""

    name: str
    prefix: str  # folder, without slashes at its ends; may be empty
    endpoint: str | None  # URL of the server; None: Amazon's

    def url(self, folder: str) -> str:
        """Return the URL of a folder: `dvc` is DVC's remote, `mlruns` holds MLflow's artifacts."""
        return "s3://" + "/".join(filter(None, [self.name, self.prefix, folder]))

    def __str__(self) -> str:
        return f"the bucket {self.name}" + (f" at {self.endpoint}" if self.endpoint else "")


def bucket(name: str, prefix: str, endpoint: str | None) -> Bucket:
    """Return the folder `prefix` of a bucket.

    Raises:
        BlobexError: if the name, the prefix or the endpoint is not valid.
    """
    if not NAME.fullmatch(name):
        raise BlobexError(f"{name!r} is no bucket: give its bare name, and a folder in it as the prefix")
    prefix = prefix.strip("/")
    if prefix and not PREFIX.fullmatch(prefix):
        raise BlobexError(f"the prefix {prefix!r} is no folder: give letters, digits and _ . - with / between")
    if endpoint and not ENDPOINT.fullmatch(endpoint):
        raise BlobexError(f"the endpoint {endpoint!r} is no address of a server: give http://host:port")
    return Bucket(name, prefix, endpoint or None)


def use_bucket(target: Bucket, params: Path = Path("params.yaml")) -> Changes:
    """Make a bucket DVC's default remote and the store of the artifacts of new MLflow runs.

    Other remotes stay defined. Returns the keys that changed in the parameter file, with the value before and after.

    Raises:
        BlobexError: if the bucket cannot be read with the credentials that boto3 finds, if the parameter file is
            damaged, or if this is no DVC project. Nothing is written then.
    """
    from dvc.config import Config
    from dvc.exceptions import DvcException

    check(target)
    values = {"run.artifacts": target.url("mlruns"), "run.s3_endpoint": target.endpoint}
    remote = {"url": target.url("dvc")} | ({"endpointurl": target.endpoint} if target.endpoint else {})
    try:
        with rewrite_values(params, values) as changes, Config.from_cwd().edit("repo") as config:
            config["remote"][REMOTE] = remote
            config["core"]["remote"] = REMOTE
    except (DvcException, OSError) as error:
        raise BlobexError(
            f"DVC's remote cannot be set ({error}): run this where .dvc/config and params.yaml are"
        ) from error
    return changes


def check(target: Bucket) -> None:
    """Raise BlobexError unless the bucket can be listed; no object in it is read or written."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    timeouts = Config(connect_timeout=TIMEOUT, read_timeout=TIMEOUT, retries={"total_max_attempts": 2})
    try:
        client = boto3.session.Session().client("s3", endpoint_url=target.endpoint, config=timeouts)
        listing = client.list_objects_v2(Bucket=target.name, Prefix=target.prefix, MaxKeys=1)
    except (BotoCoreError, ClientError, ResponseParserError, ValueError) as error:
        raise BlobexError(f"{target} cannot be used: {_advice(error)}") from error
    if "Name" not in listing:  # part of every list of objects: a page of a website lacks it
        raise BlobexError(f"{target} cannot be used: what answers there is no S3 server; check the endpoint")


def _advice(error: Exception) -> str:
    """Describe the cause of an error and its remedy, in words that do not depend on the server."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        answer: dict[str, Any] = error.response.get("Error", {})
        code = str(answer.get("Code"))
        text = textwrap.shorten(f"{code} {answer.get('Message') or ''}", 200)
        return ADVICE.get(code, f"it answers {text!r}; check its name, the endpoint and your credentials")
    if isinstance(error, exceptions.NoCredentialsError):
        return "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    text = textwrap.shorten(str(error), 200)
    if isinstance(error, exceptions.ConnectionError | exceptions.HTTPClientError):
        return f"nobody answers there ({text}); check the endpoint and the network"
    return f"{text}; check the endpoint and your credentials"
