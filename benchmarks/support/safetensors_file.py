"""Reads safetensors files with nothing but Python: 8 bytes of header length, a JSON header, then the bytes of the
tensors back to back."""

import json
import mmap
import struct

def read(path):
    """(dtype, shape, bytes) by name; the bytes are the file's, mapped."""
    with open(path, "rb") as file:
        header, begin = _read_header(file)
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))[begin:]
    header.pop("__metadata__", None)
    return {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def read_metadata(path):
    with open(path, "rb") as file:
        return _read_header(file)[0].get("__metadata__", {})


def _read_header(file):
    (length,) = struct.unpack("<Q", file.read(8))
    return json.loads(file.read(length)), 8 + length
