"""`fastreg register` as a person types it. Options: `words` of the command line, after the files.

Its seconds are those of the whole command: it reads, checks and writes.
"""

import json
import subprocess
import sys

from protocol import finish, measured, read_job

job = read_job()
command = ["-f", job.fixed, "-m", job.moving, "-o", job.file("moved.nii.gz")]
if job.labels is not None:
    command += ["--moving-labels", job.labels, "--moved-labels", job.moved_labels]
if job.points is not None:
    flat = job.fixed.endswith(".png")  # whose points are [row, column]
    command += ["--points", job.points, "--points-output", job.mapped_points]
    command += ["--points-space", "voxel" if flat else "lps"]

with measured() as result:
    done = subprocess.run(
        [sys.executable, "-m", "fastreg", "register", *command, "--json", *job.options.get("words", [])],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
result.suspect = bool(json.loads(done.stdout)["suspect"])

finish(job, result, [], "fastreg", "torch")
