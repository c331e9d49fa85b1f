"""A process that answers lines with lines of JSON, the first before it is asked."""

import json
import subprocess


class LineServer:
    """`about` is the first answer. A context manager."""

    def __init__(self, command, name):
        self._name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.about = self._answer()

    def ask(self, line):
        self._process.stdin.write(f"{line}\n")
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with status {self._process.wait()}")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()
