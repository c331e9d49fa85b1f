"""The library's side of a comparison: attention_for_comparison as a process that makes a call when it is told to."""

from .line_server import LineServer


class AttentionServer(LineServer):
    """`about` is what the program tells of itself: kernel, flops of a call, machine, build."""

    def __init__(self, program, case, inputs, outputs, kernel=None):
        command = [
            str(program),
            f"--input={inputs}",
            f"--output={outputs}",
            f"--preset={case.preset}",
            "--segments=" + ",".join(map(str, case.segments)),
            "--rates=" + ",".join(map(str, case.rates)),
        ]
        if case.backward:
            command.append("--backward")
        if kernel:
            command.append(f"--kernel={kernel}")
        super().__init__(command, "attention_for_comparison")

    def seconds(self, threads):
        """Seconds of one call with that many threads."""
        return self.ask(threads)
