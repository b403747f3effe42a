"""An S3 server of the test's own that checks signatures and rights, and a line to it that can be cut."""

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
LEAVE = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


@dataclass(frozen=True)
class Server:
    """It has one bucket; `owner` may do all with it and `stranger` nothing: environment variables of both."""

    port: int
    owner: dict[str, str]
    stranger: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def objects(self) -> dict[str, bytes]:
        """All that lies in the bucket, by key."""
        keys = (self.owner["AWS_ACCESS_KEY_ID"], self.owner["AWS_SECRET_ACCESS_KEY"])
        client = boto3.session.Session(*keys).client("s3", endpoint_url=self.url)
        found = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return {each["Key"]: client.get_object(Bucket=BUCKET, Key=each["Key"])["Body"].read() for each in found}


@contextmanager
def serving() -> Iterator[Server]:
    """A server with its bucket, empty."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else each request is logged
    running = ThreadedMotoServer(HOST, port=0, verbose=False)
    running.start()
    port = running.get_host_and_port()[1]
    url = f"http://{HOST}:{port}"
    try:
        _order(f"{url}/moto-api/reset")  # all servers of a process share their buckets
        session = boto3.session.Session("nobody", "asks", region_name="us-east-1")
        session.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
        people = session.client("iam", endpoint_url=url)
        keys = [_person(people, name) for name in ("owner", "stranger")]
        people.put_user_policy(UserName="owner", PolicyName="all", PolicyDocument=json.dumps(LEAVE))
        _order(f"{url}/moto-api/reset-auth", "0")  # from now on only valid signatures will do
        yield Server(port, *keys)
    finally:
        _order(f"{url}/moto-api/reset-auth", "inf")
        running.stop()


def _person(people: Any, name: str) -> dict[str, str]:
    people.create_user(UserName=name)
    key = people.create_access_key(UserName=name)["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


def _order(url: str, text: str = "") -> None:
    kind = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(url, text.encode(), kind, method="POST")).close()


class Line(socketserver.ThreadingTCPServer):
    """A way to a server that bears `left` more bytes upwards; then `cut` is set and it hangs, or it is dropped."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__((HOST, 0), _Connection)
        self.there, self.left, self.hangs = port, math.inf, False
        self.cut, self.ended, self.lock = Event(), Event(), Lock()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}"

    def bears(self, size: int) -> bool:
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
        with suppress(OSError), socket.create_connection((HOST, self.server.there)) as upwards:
            Thread(target=_copy, args=(upwards, self.request), daemon=True).start()
            while data := self.request.recv(65536):
                if not self.server.bears(len(data)):
                    return
                upwards.sendall(data)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
