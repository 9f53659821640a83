"""Run by the fork server, with `folder` among its globals: what a new interpreter does for one seed."""

import os
import runpy
import sys

os.setsid()
log = os.open(os.path.join(folder, "log.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # noqa: F821
for stream in (1, 2):
    os.dup2(log, stream)
sys.argv = ["grownas", "resume", folder]  # noqa: F821
runpy.run_module("grownas", run_name="__main__")
