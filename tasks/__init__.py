"""The tasks that ship with grownas; each is found through the entry-point group `grownas.tasks`."""
