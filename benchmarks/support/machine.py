"""What a comparison was measured on: the same that support/machine.hpp tells."""

import os
import pathlib
import platform
import re
import subprocess

PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent


def _field(path, key, separator):
    """Text after the separator in the first line of a file that begins with key."""
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.startswith(key):
                    return line.split(separator, 1)[1].strip(' \t\n"')
    except OSError:
        pass
    return "unknown"


def version_number(release):
    """6.1.0, of 6.1.0-13-amd64: what follows the number is a distributor's or a host's own."""
    return re.match(r"[\d.]*", release)[0]


def describe_machine():
    return {
        "cpu_model": _field("/proc/cpuinfo", "model name", ":"),
        "cpus_online": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "os": _field("/etc/os-release", "PRETTY_NAME", "="),
        "kernel": f"{platform.system()} {version_number(platform.release())}",
        "architecture": platform.machine(),
    }


def describe_commit():
    """The commit of the source tree; None where there is no repository."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(PROJECT), *words], check=True, capture_output=True, text=True
            ).stdout.strip()
            for words in (
                ("rev-parse", "--verify", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no"),
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"id": commit, "modified": bool(changes)}
