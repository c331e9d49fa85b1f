"""Writes and reads safetensors files with nothing but Python: 8 bytes of header length, a JSON header, then the bytes
of the tensors back to back."""

import json
import math
import struct

BYTES = {"F32": 4, "BF16": 2}


def write(path, tensors):
    """`tensors`: (dtype, shape, bytes) by name."""
    header, begin = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        end = begin + BYTES[dtype] * math.prod(shape)
        assert len(data) == end - begin, name
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


def read(path):
    """(dtype, shape, bytes) by name."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = bytearray(file.read())
    header.pop("__metadata__", None)
    return {
        name: (entry["dtype"], entry["shape"], memoryview(data)[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }
