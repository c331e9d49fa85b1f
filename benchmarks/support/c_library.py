"""The shared library of examples/python, called on tensors that are like PyTorch's. Needs no PyTorch itself."""

import ctypes

VERSION = 1  # RING_ATTENTION_C_VERSION
SCALARS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}  # ring_attention_scalar, by PyTorch's names


class LibraryError(RuntimeError):
    """What a call of the library says of its failure, or why the library cannot be used."""


class Config(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("segment_lengths", ctypes.POINTER(ctypes.c_int64)),
        ("dilation_rates", ctypes.POINTER(ctypes.c_int64)),
        ("branches", ctypes.c_int64),
        ("ring_size", ctypes.c_int64),
        ("head_partition", ctypes.c_int32),
        ("offset_rule", ctypes.c_int32),
        ("query_rule", ctypes.c_int32),
        ("padding_rule", ctypes.c_int32),
        ("mix_gradient", ctypes.c_int32),
        ("causal", ctypes.c_int32),
        ("has_scale", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("scale", ctypes.c_double),
    ]


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("shape", ctypes.c_int64 * 4), ("strides", ctypes.c_int64 * 3)]

    @classmethod
    def of(cls, tensor):
        *strides, last = tensor.stride()
        if last != 1:
            raise ValueError("the last axis must be contiguous")
        return cls(tensor.data_ptr(), tuple(tensor.shape), tuple(strides))


class Lengths(ctypes.Structure):
    _fields_ = [("values", ctypes.POINTER(ctypes.c_int64)), ("count", ctypes.c_int64)]


class Library:
    def __init__(self, path):
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise LibraryError(f"{path} cannot be loaded: {error}") from error
        version = self._library.ring_attention_c_version()
        if version != VERSION:
            raise LibraryError(f"{path} has version {version} of the interface in C, not {VERSION}")
        self._library.ring_attention_last_error.restype = ctypes.c_char_p

    def call(self, name, *arguments):
        """Calls a function that returns a status."""
        if getattr(self._library, name)(*arguments) != 0:
            raise LibraryError(f"{name}: {self._library.ring_attention_last_error().decode()}")

    def has_cuda(self):
        return self._library.ring_attention_has_cuda() == 1

    def kernels(self, device):
        """Names of the kernels that a GPU runs, the best first."""
        names = ctypes.create_string_buffer(256)
        self.call("ring_attention_cuda_kernels", ctypes.c_int32(device), names, ctypes.c_size_t(len(names)))
        return names.value.decode().split()

    def set_kernel(self, name):
        self.call("ring_attention_set_cuda_kernel", name.encode())

    def config(self, preset, segment_lengths, dilation_rates, causal=False):
        config = Config(size=ctypes.sizeof(Config))
        self.call("ring_attention_preset", preset.encode(), ctypes.byref(config))
        branches = ctypes.c_int64 * len(segment_lengths)
        config.segment_lengths, config.dilation_rates = branches(*segment_lengths), branches(*dilation_rates)
        config.branches, config.causal = len(segment_lengths), causal
        return config


class Context:
    """Calls on a CUDA stream, given by its address."""

    def __init__(self, library, stream):
        self._library, self._context = library, ctypes.c_void_p()
        library.call("ring_attention_context_create", ctypes.c_void_p(stream), ctypes.byref(self._context))

    def forward(self, config, scalar, q, k, v, out, lse=None):
        """A function that queues a call. It holds what the call needs, but for the memory of the tensors."""
        tensors = [Tensor.of(x) for x in (q, k, v, out)] + ([Tensor.of(lse)] if lse is not None else [])
        pointers = [ctypes.byref(tensor) for tensor in tensors] + ([None] if lse is None else [])
        arguments = (self._context, ctypes.byref(config), ctypes.c_int(SCALARS[scalar]), *pointers, Lengths())
        return lambda: self._library.call("ring_attention_context_forward", *arguments)
