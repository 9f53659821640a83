"""Configs: YAML and overrides into frozen sections, with all errors reported at once.

`sections` holds the keys, `loading` reads files and overrides, `messages` explains what is wrong.
"""
