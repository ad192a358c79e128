"""The SHA-256 of an ONNX file in its own metadata, so that damage shows when it is loaded.

A protobuf message may be cut between its fields and put together again: the digest is a metadata
entry of a known length at the end of the file, of all bytes before it.
"""

import hashlib

KEY = "sha256"
_PAIR = bytes([0x0A, len(KEY), *KEY.encode(), 0x12, 64])  # its fields key and value
_START = bytes([0x72, len(_PAIR) + 64]) + _PAIR  # field 14 of a model, metadata_props
_LENGTH = len(_START) + 64


def with_digest(model: bytes) -> bytes:
    """A serialized ONNX model without digest, with it."""
    return model + _START + hashlib.sha256(model).hexdigest().encode()


def has_digest(file: bytes) -> bool:
    """Whether a file ends with a digest."""
    return file[-_LENGTH:].startswith(_START)


def is_intact(file: bytes) -> bool:
    """Whether a file ends with the digest of what is before it."""
    return file == with_digest(file[:-_LENGTH])
