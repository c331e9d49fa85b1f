"""The sides that compare_cuda.py times on a GPU: this library, and what computes the same with PyTorch."""

import contextlib
import functools
import types

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .c_library import Context, Library, LibraryError
from .pytorch_attention import explicit_attention, flash_attention_on_gpu
from .pytorch_peer import PytorchPeer, error_ratios, rms_error, worst_error

# PyTorch's kernels for dense attention, by the names of peers.
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
LEAST_SAMPLE_SECONDS = 0.01
PRODUCT = 8192  # rows and columns of the matrices whose product is the peak


def seconds_of_calls(call, calls):
    """Seconds of each of `calls` calls that follow one another, between events."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e-3 / calls


class Side:
    """`call()` is what is timed, `outputs()` what it gives by name; both in the context that `scope()` makes."""

    def __init__(self, call, outputs, scope=contextlib.nullcontext):
        self._call, self._outputs, self._scope = call, outputs, scope
        self._calls = None

    def outputs(self):
        with self._scope():
            return self._outputs()

    def seconds(self):
        """Of a call; a sample is as many calls as take LEAST_SAMPLE_SECONDS."""
        with self._scope():
            if self._calls is None:
                one = seconds_of_calls(self._call, 1)
                if one < LEAST_SAMPLE_SECONDS:
                    one = seconds_of_calls(self._call, 2)  # the first may have had to load or to choose something
                self._calls = max(1, min(200, int(LEAST_SAMPLE_SECONDS / one)))
            return seconds_of_calls(self._call, self._calls)


def find_torchscale():
    """torchscale's DilatedAttention; None, and why, if it cannot run."""
    try:
        from torchscale.component import dilated_attention, multihead_attention
    except ImportError as error:
        return None, f"torchscale cannot be imported: {error}"
    if getattr(multihead_attention, "flash_attn_func", None) is None:
        return None, "torchscale has no attention without flash-attn"
    return dilated_attention.DilatedAttention, None


class Torchscale:
    """torchscale's own dilated attention without its projections."""

    def __init__(self, make, case, inputs):
        settings = types.SimpleNamespace(
            segment_length=list(case.segments), dilated_ratio=list(case.rates), flash_attention=True, multiway=False,
            xpos_rel_pos=False, seq_parallel=False, layernorm_eps=1e-5,
        )
        module = make(settings, case.heads * case.head_dim, case.heads, self_attention=True)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(module, name, torch.nn.Identity())
        rows = [inputs[name].flatten(2) for name in "qkv"]
        self.call = lambda: module(*rows)[0]
        self._shape = inputs["q"].shape

    def outputs(self):
        return {"out": self.call().view(self._shape)}


class Problem:
    """A case on the current GPU: `inputs` and `sides` by name, the library's first."""

    def __init__(self, case, gpu, seed=1):
        self._case = case
        generator = torch.Generator("cuda").manual_seed(seed)
        scalar = getattr(torch, case.scalar)

        def rows(fill):
            return fill((1, case.tokens * case.stride, case.heads, case.head_dim))[:, :: case.stride]

        draw = functools.partial(torch.randn, generator=generator, device="cuda", dtype=scalar)
        self.inputs = {name: rows(draw) for name in "qkv"}
        out = rows(functools.partial(torch.full, fill_value=torch.nan, device="cuda", dtype=scalar))
        lse = torch.full((1, case.heads, case.tokens, 1), torch.nan, device="cuda")
        config = gpu.library.config(case.preset, case.segments, case.rates, case.causal)
        arguments = (config, case.scalar, *self.inputs.values(), out)

        def outputs():
            gpu.context.forward(*arguments, lse)()
            return {"out": out, "lse": lse}

        self.sides = {"library": Side(gpu.context.forward(*arguments), outputs)}
        for name in case.peers:
            self.sides[name] = self._peer(name, gpu)

    def _peer(self, name, gpu):
        case = self._case
        if name == "contiguous":  # the library's own call with as many rows, one behind the other
            return Problem(case.contiguous(), gpu).sides["library"]
        if name == "torchscale":
            peer = Torchscale(gpu.torchscale, case, self.inputs)
        else:
            peer = PytorchPeer(case, self.inputs, flash_attention_on_gpu if name == "gather" else None)
        scope = functools.partial(sdpa_kernel, KERNELS[name]) if name in KERNELS else contextlib.nullcontext
        return Side(peer.call, peer.outputs, scope)

    def errors(self):
        """(largest error in tolerances, where, root-mean-square error) of each side against PyTorch in float64."""
        case = self._case
        exact = functools.partial(explicit_attention, dtype=torch.float64, causal=case.causal)
        inputs = {name: x.double() for name, x in self.inputs.items()}
        reference = PytorchPeer(case, inputs, exact).outputs()
        errors = {}
        for name, side in self.sides.items():
            if name == "contiguous":
                continue
            outputs = side.outputs()
            expected = {key: reference[key] for key in outputs}
            errors[name] = (*worst_error(case, case.scalar, expected, outputs),
                            rms_error(outputs["out"], reference["out"]))
        return errors


class Gpu:
    """The current GPU. Throws LibraryError if the library cannot be used on it."""

    def __init__(self, library, kernel=None):
        torch.set_grad_enabled(False)
        self.library = Library(library)
        if not self.library.has_cuda():
            raise LibraryError(f"{library} was built without CUDA")
        device = torch.cuda.current_device()
        self.kernels = self.library.kernels(device)
        if not self.kernels:
            raise LibraryError(f"{library} carries no code for the GPU: name its architecture in "
                               "CMAKE_CUDA_ARCHITECTURES")
        if kernel and kernel not in self.kernels:
            raise LibraryError(f"the GPU does not run the kernel {kernel}: it has {', '.join(self.kernels)}")
        self.library.set_kernel(kernel or "")
        self.kernel = kernel or self.kernels[0]
        self.context = Context(self.library, torch.cuda.current_stream().cuda_stream)
        self.torchscale, self.why_no_torchscale = find_torchscale()
        properties = torch.cuda.get_device_properties(device)
        self.machine = {
            "name": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
        }
        self.pytorch = {
            "version": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
        self._factors = [torch.randn(PRODUCT, PRODUCT, device="cuda").bfloat16() for _ in range(2)]
        self._product = torch.empty_like(self._factors[0])

    def peak(self):
        """Operations per second of a large product of bfloat16 matrices, by which changes of the clock are seen."""
        call = functools.partial(torch.mm, *self._factors, out=self._product)
        return 2 * PRODUCT**3 / seconds_of_calls(call, 3)

    def problem(self, case):
        torch.cuda.empty_cache()  # of the problem before it
        return Problem(case, self)

    def error_ratios(self, case, seed):
        """Of the outputs, as compare_errors() wants them."""
        problem = Problem(case, self, seed)
        tensors = problem.inputs | problem.sides["library"].outputs()
        return error_ratios(case, tensors), self.kernel
