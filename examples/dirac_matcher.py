"""Asks DIRAC's classic matcher for jobs: a program for `matcher_command`, run by a Python in which DIRAC's client is.

It reads questions from standard input, one line of JSON each, and answers each with one. DIRAC's client wants a proxy
and its configuration, as a pilot has them. It was written from DIRAC's source, and not run against a server.
"""

from __future__ import annotations

import json
import sys
from typing import Any

#: What the matcher says when it has nothing.
NOTHING = "no match"


def matched(client: Any, question: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask for one job after the other, until there is none, or no more: those that were given are ours."""
    described = {"Site": question["site"], "GridCE": question["site"], "PilotReference": "volunteer-cloud"}
    jobs = []
    for _ in range(question["most"]):
        answer = client.requestJob({**described, **question["resources"]})
        if not answer["OK"]:
            if jobs or NOTHING in answer["Message"].lower():
                break
            raise RuntimeError(answer["Message"])
        job = answer["Value"]
        jobs.append({"id": int(job["JobID"]), "attempt": 1 + int(job.get("RescheduleCounter", 0)), "jdl": job["JDL"]})
    return jobs


def main() -> None:
    """Answer until standard input ends."""
    from DIRAC.Core.Base.Script import Script
    from DIRAC.WorkloadManagementSystem.Client.MatcherClient import MatcherClient

    Script.parseCommandLine(ignoreErrors=True)
    client = MatcherClient()
    for line in sys.stdin:
        question = json.loads(line)
        try:
            said: dict[str, Any] = {"id": question["id"], "jobs": matched(client, question)}
        except RuntimeError as error:
            said = {"id": question["id"], "error": str(error)}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
