"""Run folders, and the commands that write and read them.

A run folder holds the config, the logs, the checkpoint and the results of one run. The journal makes runs resumable.
"""
