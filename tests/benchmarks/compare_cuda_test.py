"""compare_cuda.py without a GPU: what it says is missing, and what it prints and writes of a GPU that stands in.

usage: compare_cuda_test.py PROJECT
"""

import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import types

sys.dont_write_bytecode = True
project = pathlib.Path(sys.argv[1]).resolve()
sys.path.insert(0, str(project / "benchmarks"))

import compare_cuda  # noqa: E402
from checks import check, finish  # noqa: E402
from support import c_library  # noqa: E402
from support.comparison import GIGAPATH_SEGMENTS, RATES, SEGMENTS, Case  # noqa: E402


class FakeSide:
    def __init__(self, seconds):
        self._seconds = seconds

    def seconds(self):
        return self._seconds


class FakeProblem:
    """Peers take twice the library's time. Errors are half a tolerance, and a peer's root-mean-square error is half of
    the library's; `errors` replaces them."""

    def __init__(self, case, errors):
        self.sides = {name: FakeSide(1e-3 * (1 + (name != "library"))) for name in ("library", *case.peers)}
        given = {name: (0.5, "out", 1e-3 / (1 + (name != "library"))) for name in self.sides if name != "contiguous"}
        self._errors = given | errors

    def errors(self):
        return self._errors


class FakeGpu:
    """The peaks that it measures are those of a list, then 1e14."""

    machine = {"name": "a GPU", "multiprocessors": 2, "memory_bytes": 1 << 30}
    pytorch = {"version": "9.9", "cuda": "13.0", "cudnn": 1}
    kernels, kernel = ["sm80", "generic"], "sm80"
    torchscale, why_no_torchscale = None, "torchscale cannot be imported: it stands in"

    def __init__(self, peaks=(), errors=None, ratio=1.0):
        self._peaks, self._errors, self._ratio = list(peaks), errors or {}, ratio

    def peak(self):
        return self._peaks.pop(0) if self._peaks else 1e14

    def problem(self, case):
        return FakeProblem(case, self._errors)

    def error_ratios(self, case, seed):
        return {"out": self._ratio + 0.01 * seed}, self.kernel


@contextlib.contextmanager
def stand_ins(cuda=True, make_gpu=None):
    """PyTorch with or without a GPU, and its side of the comparison."""
    torch = types.ModuleType("torch")
    torch.__version__ = "9.9"
    torch.cuda = types.SimpleNamespace(is_available=lambda: cuda)
    peers = types.ModuleType("support.cuda_peers")
    peers.Gpu = make_gpu
    names = {"torch": torch, "support.cuda_peers": peers}
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    import support

    support.cuda_peers = peers
    try:
        yield
    finally:
        del support.cuda_peers
        for name, module in before.items():
            sys.modules.pop(name)
            if module:
                sys.modules[name] = module


def run(*arguments):
    """Status, output, and what was said of mistakes."""
    sys.argv = ["compare_cuda.py", *map(str, arguments)]
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            compare_cuda.main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
            errors.write(end.code if isinstance(end.code, str) else "")
    return status, out.getvalue(), errors.getvalue()


def check_missing(folder, library, program):
    (folder / "without").mkdir()
    (folder / "without" / "torch.py").write_text("raise ImportError('blocked')\n", encoding="utf-8")
    script = [sys.executable, project / "benchmarks" / "compare_cuda.py", "--library", folder / "none.so"]
    command = ["env", f"PYTHONPATH={folder / 'without'}", *script, "--program", program]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    text = done.stderr
    check(f"without PyTorch and library: {text}", done.returncode == 3 and "PyTorch is missing (blocked)" in text)
    check(f"the library that is missing: {text}", "none.so does not exist" in text)
    with stand_ins(cuda=False):
        status, _, text = run("--library", library, "--program", program)
        check(f"without a GPU: {text}", status == 3 and "PyTorch 9.9 finds no GPU" in text)

    def fail(path, _):
        raise c_library.LibraryError(f"{path} was built without CUDA")

    with stand_ins(make_gpu=fail):
        status, _, text = run("--library", library, "--program", program)
        check(f"a library without CUDA: {text}", status == 3 and "was built without CUDA" in text)
        status, _, text = run("--rounds", 0)
        check(f"no rounds: {text}", status == 2 and "--rounds must be positive" in text)
    try:
        c_library.Library(library)
        check("a file that is no library", False)
    except c_library.LibraryError as error:
        check(f"a file that is no library: {error}", "cannot be loaded" in str(error))


def check_results(folder, arguments):
    path = folder / "compare_cuda_results-1.json"
    gpu = FakeGpu()
    with stand_ins(make_gpu=lambda *_: gpu):
        status, text, _ = run(*arguments, "--quick", "--json", path)
    results = json.loads(path.read_text(encoding="utf-8"))
    lines = {line["name"]: line for line in results["results"]}
    check(f"all agree: {text}", status == 0)
    check(f"the command, without paths: {results['command']}", results["command"].endswith("compare_cuda.py --quick"))
    check("the kernels of the GPU", results["kernels"] == gpu.kernels and results["machine"]["gpu"] == gpu.machine)
    check("what is not compared", "torchscale is not compared" in text and "stands in" in results["torchscale"])
    line = lines["dense/d64/causal/bfloat16/flash"]
    check("the ratio is the peer's time over the library's", line["ratio"]["median"] == 2 and not line["noisy"])
    check("rounds", line["ratio"]["repetitions"] == 7)
    check("operations of a triangle", line["flops"] == 4 * 64 * 16 * 8192 * 8193 // 2)
    check("TFLOP/s", abs(line["library_tflops"]["median"] - line["flops"] * 1e-9) < 1e-9)
    check("errors of both", line["error_ratio"] == 2 and line["peer_difference_in_tolerances"] == 0.5)
    check("cuDNN", "dense/d128/full/bfloat16/cudnn" in lines and lines["longnet/n16384/bfloat16/gather"]["kernel"])
    strided = lines["strided/d64/r16/bfloat16/contiguous"]
    check("rows apart", strided["stride"] == 16 and strided["flops"] == 4 * 64 * 16 * 8192**2)
    check("a branch as large", lines["dilated/d64/r16/bfloat16/contiguous"]["flops"] == strided["flops"])
    check("quick leaves the longest out", not any("262144" in name for name in lines))
    check("medians of 5 seeds", results["accuracy"][0]["error_ratio_out"] == 1.03 and len(results["accuracy"]) == 8)
    check(f"the table: {text}", "gigapath/n10000/bfloat16/gather" in text and "2 (2 to 2)" in text)
    # With the results of the kernels one page.
    summary = {"median": 2000.0, "minimum": 1000.0, "maximum": 3000.0, "repetitions": 3}
    part = {key: value * 1e-4 if key != "repetitions" else value for key, value in summary.items()}
    kernel_line = {
        "name": "dense-8192x16/sm80/half/d64/forward", "kernel": "sm80", "scalar": "half", "direction": "forward",
        "configuration": "dense-8192x16", "head_dim": 64, "seconds": summary | {"median": 0.002}, "gflops": summary,
        "part_of_peak": part, "peak": "mma.sync half", "noisy": True,
    }
    kernels = folder / "benchmark_attention_kernels_results-1.json"
    about = {key: results[key] for key in ("machine", "commit", "kernels", "timestamp")}
    about |= {"command": "benchmark_attention_kernels --device=cuda", "results": [kernel_line]}
    kernels.write_text(json.dumps(about | {"peaks": [{"name": "mma.sync half", "gflops": summary}]}), encoding="utf-8")
    report = [sys.executable, project / "benchmarks" / "report.py", path, kernels, "--out", folder]
    done = subprocess.run([str(word) for word in report], capture_output=True, text=True)
    page = next(folder.glob("gpus-*.md"), None)
    check(f"a page: {done.stderr}", done.returncode == 0 and page)
    if page:
        text = page.read_text(encoding="utf-8")
        check("what it was measured on", "- GPU: a GPU, 2 multiprocessors, 1.00 GiB of memory.\n" in text)
        check("PyTorch and its libraries", "PyTorch 9.9, CUDA 13.0, cuDNN 1." in text)
        check("a peak", "| mma.sync half | 2.00 (1.00 to 3.00) |" in text)
        check("the best kernel", "- `sm80`: half forward 20% (dense-8192x16, d = 64)." in text)
        check("a kernel", "d64/forward (noisy) | 2.00 ms (" in text and "20% (10% to 30%) | mma.sync half |" in text)
        check("its table", "| dense/d64/full/float32/efficient | sm80 | 1.00 ms" in text and "| 2.00 (2.00 to" in text)


def check_failures(folder, arguments):
    path = folder / "failed.json"
    for errors, what in (
        ({"library": (1.5, "lse", 1.0)}, "lse differs by 1.5 tolerances"),
        ({"library": (float("nan"), "out", 1.0)}, "out differs by nan tolerances"),
        ({"gather": (11.0, "out", 1.0)}, "the peer's by 11"),
    ):
        with stand_ins(make_gpu=lambda *_, errors=errors: FakeGpu(errors=errors)):
            status, text, _ = run(*arguments, "--filter", "longnet,n16384", "--json", path)
        [line] = json.loads(path.read_text(encoding="utf-8"))["results"]
        check(f"{what}: {text}", status == 1 and "FAILED longnet/n16384/bfloat16/gather" in text and what in text)
        check(f"{what}: not timed", not line["agree"] and "ratio" not in line)
    with stand_ins(make_gpu=lambda *_: FakeGpu(ratio=1.25)):
        status, text, _ = run(*arguments, "--accuracy", "--json", path)
        check(f"errors above PyTorch's: {text}", status == 1 and "FAILED accuracy/d64/full/bfloat16" in text)
    with stand_ins(make_gpu=lambda *_: FakeGpu()):
        status, _, text = run(*arguments, "--filter", "nothing", "--json", path)
        check(f"no case: {text}", status == 1 and "no case matches" in text)
    # A clock that changes: rounds between peaks that differ do not count.
    peaks = [1e14, 1e14, 0.9e14, 0.9e14, 0.9e14]
    with stand_ins(make_gpu=lambda *_: FakeGpu(peaks)):
        run(*arguments, "--filter", "longnet,n16384", "--rounds", 3, "--json", path)
    [line] = json.loads(path.read_text(encoding="utf-8"))["results"]
    check("three rounds count", line["ratio"]["repetitions"] == 3 and not line["noisy"])
    product = line["product_tflops"]
    check(f"one did not: {product}", round(product["minimum"]) == 90 and round(product["maximum"]) == 100)
    peaks = [1e14, 0.5e14] * 20
    with stand_ins(make_gpu=lambda *_: FakeGpu(peaks)):
        status, text, _ = run(*arguments, "--filter", "longnet,n16384", "--rounds", 3, "--json", path)
    [line] = json.loads(path.read_text(encoding="utf-8"))["results"]
    check(f"none counts: {text}", line["noisy"] and line["ratio"]["repetitions"] == 9 and "noisy" in text)


def check_flops():
    """Counted row by row."""
    for case in (
        Case("dense", 5, 2, 3, segments=(5,)),
        Case("causal", 7, 2, 3, segments=(4,), causal=True),
        Case("longnet", 50, 3, 2, "longnet", (8, 16), (1, 4)),
        Case("torchscale", 45, 5, 2, "torchscale", (8, 16, 100), (1, 2, 4)),
    ):
        pairs = 0
        for width, rate in zip(case.segments, case.rates):
            for head in range(case.heads):
                offset = head % rate if case.preset == "longnet" else head // -(-case.heads // rate)
                kept = [t for t in range(case.tokens) if t % width % rate == offset]
                pairs += sum(q // width == k // width and (k <= q or not case.causal) for q in kept for k in kept)
        check(f"operations of {case.name}", case.flops() == 4 * case.head_dim * pairs)
    check("LongNet, at full size", Case("", 16384, 12, 64, "longnet", SEGMENTS, RATES).flops() > 0)
    check("GigaPath, at full size", Case("", 10000, 16, 48, "torchscale", GIGAPATH_SEGMENTS, RATES).flops() > 0)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        library, program = folder / "library.so", folder / "program"
        library.touch()
        about = {"timestamp": "20260101T000000Z", "commit": None, "kernels": ["avx2"],
                 "machine": {"cpu_model": "a processor", "cpus_usable": 2, "memory_bytes": 1 << 30, "os": "an OS",
                             "kernel": "a kernel"}}
        program.write_text(f"#!/bin/sh\necho '{json.dumps(about)}'\n", encoding="utf-8")
        program.chmod(0o755)
        arguments = ("--library", library, "--program", program)
        check_missing(folder, library, program)
        check_results(folder, arguments)
        check_failures(folder, arguments)
    check_flops()
    finish()


main()
