"""The tasks shipped with grownas, registered in the entry-point group `grownas.tasks`."""
