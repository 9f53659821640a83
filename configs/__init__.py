"""The shipped configs, `<task>/<name>.yaml`: package data, found by `grownas.config.loading`."""
