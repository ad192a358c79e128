"""Servers of S3 and of Google Cloud Storage on loopback, each with one bucket.

As a program it prints the environment by which they are found, and ends with its standard input.
"""

import contextlib
import functools
import http
import json
import logging
import os
import socket
import sys
import uuid

BUCKET = "bucket"
SCHEMES = ("s3", "gs")


def new_address(scheme):
    """A folder in the bucket that no other test uses."""
    return f"{scheme}://{BUCKET}/{uuid.uuid4()}/run"


@contextlib.contextmanager
def servers():
    """Starts both, and names them in the environment, as for emulators; ends them."""
    with _s3() as s3, _google() as google:
        for name, value in (s3 | google).items():
            os.environ[name] = value
        yield s3 | google
        for name in s3 | google:
            del os.environ[name]


@contextlib.contextmanager
def _s3():
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    named = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client = boto3.client(
        "s3",
        endpoint_url=named["AWS_ENDPOINT_URL"],
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    try:
        yield named
    finally:
        server.stop()


def _conditional(handler):
    """Adds to a handler of the emulator what it lacks: `ifGenerationMatch=0`, create if absent.

    https://cloud.google.com/storage/docs/request-preconditions
    """

    from gcp_storage_emulator.exceptions import NotFound

    @functools.wraps(handler)
    def handle(request, response, storage, *args, **kwargs):
        if request.query.get("ifGenerationMatch") == ["0"]:
            name = (
                request.query["name"][0]
                if "name" in request.query
                else request.data["meta"]["name"]
            )
            with contextlib.suppress(NotFound):
                storage.get_file_obj(request.params["bucket_name"], name)
                response.status = http.HTTPStatus.PRECONDITION_FAILED
                return response.json({"error": {"code": 412, "message": "conditionNotMet"}})
        return handler(request, response, storage, *args, **kwargs)

    return handle


@contextlib.contextmanager
def _google():
    from gcp_storage_emulator import server as emulator

    emulator.HANDLERS = tuple(
        (route, {method: _conditional(handler) for method, handler in handlers.items()})
        for route, handlers in emulator.HANDLERS
    )
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    server._api._httpd.handle_error = lambda *error: None  # a client may close a connection early
    try:
        yield {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}
    finally:
        server.stop()


if __name__ == "__main__":
    with servers() as named:
        print(json.dumps(named), flush=True)
        sys.stdin.read()
    os._exit(0)  # the servers' threads may still wait for requests
