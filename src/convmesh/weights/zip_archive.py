"""A zip archive that is not trusted: nothing is extracted, no member grows without bound."""

from __future__ import annotations

import zipfile

import numpy as np

from convmesh.weights.binary_file import BinaryFile, Refused, printable

# Together, the members that are read may have so many bytes more than the file: weights hardly
# compress, and a member of zeros grows a thousand times.
_GROWTH = 2**27
_LONGEST_READ = 2**24  # bytes of one read, so also of the list of members: over 100,000 of them
_PIECE = 2**20


class _BoundedReads:
    """What `zipfile` reads from: the list of members, which it reads whole, must not be long."""

    def __init__(self, file: BinaryFile):
        self._file, self._size = file.file, file.size
        self.seek, self.tell = file.file.seek, file.file.tell

    def read(self, count: int = -1) -> bytes:
        if count < 0:
            count = self._size - self.tell()
        if count > _LONGEST_READ:
            raise Refused(f"its list of members has {count} bytes; {_LONGEST_READ} are the most")
        return self._file.read(count)

    def seekable(self) -> bool:
        return True


class ZipArchive:
    """The members of a zip archive, stored or deflated.

    file: of the archive. Raises Refused and `zipfile.BadZipFile`.
    """

    def __init__(self, file: BinaryFile):
        self._zip = zipfile.ZipFile(_BoundedReads(file))  # type: ignore[arg-type]
        self._members = {info.filename: info for info in self._zip.infolist()}
        if len(self._members) != len(self._zip.infolist()):
            raise Refused("two of its members have one name")
        self._left = file.size + _GROWTH
        self._file_size = file.size
        self.names = list(self._members)

    def size(self, name: str) -> int:
        """Return the bytes of a member. Raises Refused if there is none of this name."""
        return self._member(name).file_size

    def read(self, name: str, limit: int) -> bytes:
        """Return the bytes of a member that has at most `limit`. Raises Refused, BadZipFile."""
        if (size := self.size(name)) > limit:
            raise Refused(f"its {printable(name)} has {size} bytes; {limit} are the most")
        return self.array(name, np.dtype(np.uint8), size).tobytes()

    def array(self, name: str, dtype: np.dtype, count: int) -> np.ndarray:
        """Return the numbers of a member, [count]. Raises Refused, BadZipFile."""
        member = self._member(name)
        if member.file_size != count * dtype.itemsize:
            raise Refused(
                f"its {printable(name)} has {member.file_size} bytes,"
                f" not the {count * dtype.itemsize} of what refers to it"
            )
        self._take(member)
        data = np.empty(count, dtype)
        target = data.view(np.uint8).data
        with self._zip.open(member) as stream:
            at = 0
            while piece := stream.read(_PIECE):  # the last read verifies the CRC
                target[at : at + len(piece)] = piece  # ValueError where it is longer than it says
                at += len(piece)
        if at != member.file_size:
            raise Refused(f"its {printable(name)} is cut short")
        return data

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            raise Refused(f"it has no member {printable(name)}")
        return self._members[name]

    def _take(self, member: zipfile.ZipInfo) -> None:
        """Raise Refused for a member that cannot be read, or if too much was read with it."""
        name = printable(member.filename)
        if member.flag_bits & 1:
            raise Refused(f"its {name} is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refused(f"its {name} is compressed by another method than deflate")
        if member.compress_size > self._file_size:
            raise Refused(f"it is cut short: its {name} is longer than the file")
        self._left -= member.file_size
        if self._left < 0:
            raise Refused(f"its members grow too much: with {name} by more than {_GROWTH} bytes")
