"""grownas grows recurrent cells by morphisms that keep the learned function."""
