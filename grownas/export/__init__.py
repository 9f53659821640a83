"""Writes a trained model as ONNX: `graph` adds nodes by arithmetic, `cells` and `blocks` the core, `model` the file."""

FORMS = ("sequence", "step")  # a file reads a whole sequence, or one time step with the state in and out
