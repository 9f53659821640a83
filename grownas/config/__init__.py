"""Configs: parses YAML and overrides into frozen sections, and reports all errors together.

`sections` defines the keys, `loading` reads files and overrides, `messages` explains errors.
"""
