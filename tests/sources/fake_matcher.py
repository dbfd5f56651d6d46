"""Plays the part of a program that asks DIRAC's classic matcher, well and badly: python fake_matcher.py MANNER."""

from __future__ import annotations

import json
import sys
import time


def answer(question: dict, manner: str) -> None:
    jobs = [{"id": 40 + n, "attempt": 2, "jdl": f"[ Executable = job{n}; CPUTime = 60; ]"} for n in range(3)]
    said = {"id": question["id"], "jobs": jobs[: question["most"]]}
    if manner == "error":
        said = {"id": question["id"], "error": "no match\x1b[2J"}
    if manner == "midst":
        said["error"] = "the matcher is away"
    if manner == "another":
        said["id"] += 1
    if manner == "flawed":
        said["jobs"] = [{"id": 40, "attempt": 1, "jdl": "Executable = x; CPUTime = soon"}]
    if manner == "asked":
        said["jobs"] = [
            {"id": 40, "attempt": 1, "jdl": "Executable = x; Arguments = " + json.dumps(json.dumps(question))}
        ]
    print({"nonsense": "<html>", "endless": "x" * (20 << 20)}.get(manner) or json.dumps(said), flush=True)


def main(manner: str) -> None:
    for line in sys.stdin:
        if manner == "ends":
            return
        if manner == "silent":
            time.sleep(60)
        answer(json.loads(line), manner)


if __name__ == "__main__":
    main(sys.argv[1])
