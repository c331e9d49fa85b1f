"""The library's side of a comparison: attention_for_comparison as a process that makes a call when it is told to."""

import json
import subprocess


class AttentionServer:
    """`about` is what the program tells of itself: kernel, flops of a call, machine, build. A context manager."""

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
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.about = self._answer()

    def seconds(self, threads):
        """Seconds of one call with that many threads."""
        self._process.stdin.write(f"{threads}\n")
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"attention_for_comparison ended with status {self._process.wait()}")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()
