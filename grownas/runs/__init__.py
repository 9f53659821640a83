"""Run folders, and the commands that fill and read them.

A folder holds the config, the logs, the checkpoint and the results of one run. The journal makes a run resumable.
"""
