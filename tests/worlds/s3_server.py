"""S3 server for tests that checks signatures and permissions, and a connection to it that can be cut."""

import json
import logging
import math
import socket
import socketserver
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

HOST, BUCKET = "127.0.0.1", "weights"
ALLOW_ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


@dataclass(frozen=True)
class Server:
    """Server with one bucket; the environment variables of `owner` have all permissions, those of `stranger` none."""

    port: int
    owner: dict[str, str]
    stranger: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def objects(self) -> dict[str, bytes]:
        """Return the content of each object in the bucket, by key."""
        keys = (self.owner["AWS_ACCESS_KEY_ID"], self.owner["AWS_SECRET_ACCESS_KEY"])
        client = boto3.session.Session(*keys).client("s3", endpoint_url=self.url)
        names = [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
        return {name: client.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names}


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server whose bucket is empty."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else each request is logged
    running = ThreadedMotoServer(HOST, port=0, verbose=False)
    running.start()
    port = running.get_host_and_port()[1]
    url = f"http://{HOST}:{port}"
    try:
        _post(f"{url}/moto-api/reset")  # all servers of a process share their buckets
        session = boto3.session.Session("nobody", "asks", region_name="us-east-1")
        session.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
        iam = session.client("iam", endpoint_url=url)
        keys = [_credentials(iam, name) for name in ("owner", "stranger")]
        iam.put_user_policy(UserName="owner", PolicyName="all", PolicyDocument=json.dumps(ALLOW_ALL))
        _post(f"{url}/moto-api/reset-auth", "0")  # only valid signatures are accepted from now on
        yield Server(port, *keys)
    finally:
        _post(f"{url}/moto-api/reset-auth", "inf")
        running.stop()


def _credentials(iam: Any, name: str) -> dict[str, str]:
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


def _post(url: str, text: str = "") -> None:
    kind = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(url, text.encode(), kind, method="POST")).close()


class Line(socketserver.ThreadingTCPServer):
    """Proxy that forwards `left` more bytes to a server; then it sets `cut`, and hangs or closes the connection."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__((HOST, 0), _Connection)
        self.target, self.left, self.hangs = port, math.inf, False
        self.cut, self.ended, self.lock = Event(), Event(), Lock()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}"

    def forwards(self, size: int) -> bool:
        with self.lock:
            self.left -= size
            enough = self.left >= 0
        if not enough:
            self.cut.set()
            if self.hangs:
                self.ended.wait(60)
        return enough

    @contextmanager
    def open(self) -> Iterator["Line"]:
        thread = Thread(target=self.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self.ended.set()
            self.shutdown()
            self.server_close()
            thread.join()


class _Connection(socketserver.BaseRequestHandler):
    server: Line

    def handle(self) -> None:
        with suppress(OSError), socket.create_connection((HOST, self.server.target)) as upstream:
            Thread(target=_copy, args=(upstream, self.request), daemon=True).start()
            while data := self.request.recv(65536):
                if not self.server.forwards(len(data)):
                    return
                upstream.sendall(data)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
