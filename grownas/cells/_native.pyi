"""The C extension; see native/module.c."""

CODES: bytes

def loop(
    is_backward: bool,
    is_double: bool,
    T: int,
    B: int,
    H: int,
    A: int,
    A_row: int,
    Q: int,
    Q_row: int,
    h_0: int,
    grad: int,
    dh_0: int,
    nodes: tuple[tuple[bytes | int, ...], ...],
    /,
) -> None: ...
def dag(
    is_backward: bool,
    is_double: bool,
    T: int,
    kept: int,
    B: int,
    H: int,
    outputs: int,
    reads: bytes,
    activations: bytes,
    weights: bytes,
    A_0: int,
    A: int,
    states: int,
    values: int,
    out: int,
    W_h: int,
    h_0: int,
    grad: int,
    dh_0: int,
    /,
) -> None: ...
def multiply(
    is_double: bool,
    M: int,
    N: int,
    K: int,
    a: int,
    a_row: int,
    a_column: int,
    b: int,
    b_row: int,
    b_column: int,
    out: int,
    out_row: int,
    /,
) -> None: ...
def activate(is_double: bool, activation: int, n: int, z: int, y: int, /) -> None: ...
def instruction_sets() -> list[str]: ...
def use(name: str, /) -> str: ...
