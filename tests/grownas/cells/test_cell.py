"""`GrownRNN` behaves as `nn.GRU` does, shape by shape."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from grownas.backbones.chain import Backbone
from grownas.cells.cell import GrownRNN
from grownas.errors import GenotypeError
from grownas.genotype import Genotype, Node, Op
from grownas.ops import DEFAULT_OPS

I, H = 3, 4  # noqa: E741 - the field's names
GENOTYPE = Genotype(
    (
        Node((Op("hadamard", "tanh", 0.7), Op("add", "identity", 0.3))),
        Node((Op("add", "sigmoid", 0.25), Op("add", "relu", 0.5), Op("hadamard", "sigmoid", 0.25))),
    )
)


def make(genotype=GENOTYPE, inputs=I, hidden=H, layers=1, seed=0, **options):
    cell = GrownRNN(genotype, inputs, hidden, layers, **options)
    cell.reset_parameters(torch.Generator().manual_seed(seed))
    return cell.double()


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_step_written_out_by_hand():
    """h = 0.7 tanh((x W_x + b_x) (s W_h + b_h)) + 0.3 (x W_x + b_x + s W_h), in one dimension."""
    cell = make(Genotype(GENOTYPE.nodes[:1]), 1, 1)
    one = torch.ones(1, 1, dtype=torch.float64)
    cell.load_op_parameters(0, 0, 0, {"W_x": 2 * one, "b_x": one[0], "W_h": -one, "b_h": 0.5 * one[0]})
    cell.load_op_parameters(0, 0, 1, {"W_x": 0.1 * one, "b_x": 0.2 * one[0], "W_h": 0.4 * one})
    out, _ = cell(torch.tensor([[[0.3]]], dtype=torch.float64), torch.tensor([[[0.7]]], dtype=torch.float64))
    # (2 * 0.3 + 1) * (-0.7 + 0.5) = -0.32, tanh(-0.32) = -0.3095069; 0.03 + 0.2 + 0.28 = 0.51
    assert out.item() == pytest.approx(0.7 * -0.30950692121 + 0.3 * 0.51, abs=1e-10)


@settings(deadline=None, max_examples=40)
@given(
    layers=st.integers(1, 3),
    batch_first=st.booleans(),
    batched=st.booleans(),
    with_state=st.booleans(),
    T=st.integers(1, 5),
    B=st.integers(1, 3),
)
def test_shapes_are_grus(layers, batch_first, batched, with_state, T, B):
    shape = ((B, T, I) if batch_first else (T, B, I)) if batched else (T, I)
    h_0 = randn(*((layers, B, H) if batched else (layers, H))) if with_state else None
    cell, gru = make(layers=layers, batch_first=batch_first), nn.GRU(I, H, layers, batch_first=batch_first).double()
    for got, wanted in zip(cell(randn(*shape), h_0), gru(randn(*shape), h_0), strict=True):
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype


@settings(deadline=None, max_examples=20)
@given(layers=st.integers(1, 3), seed=st.integers(0, 99))
def test_all_layouts_say_the_same(layers, seed):
    x, h_0 = randn(5, 2, I, seed=seed), randn(layers, 2, H, seed=seed + 1)
    cell = make(layers=layers, seed=seed)
    first = make(layers=layers, seed=seed, batch_first=True)
    out, h_n = cell(x, h_0)
    torch.testing.assert_close(first(x.transpose(0, 1), h_0)[0], out.transpose(0, 1), rtol=0, atol=1e-14)
    for b in range(2):
        for one in (cell, first):  # without a batch there is nothing to put first
            alone, last = one(x[:, b], h_0[:, b])
            torch.testing.assert_close(alone, out[:, b], rtol=0, atol=1e-14)
            torch.testing.assert_close(last, h_n[:, b], rtol=0, atol=1e-14)


def test_no_state_is_a_zero_state_and_h_n_is_each_layers_last():
    cell, x = make(layers=2), randn(5, 2, I)
    out, h_n = cell(x)
    assert torch.equal(out, cell(x, torch.zeros(2, 2, H, dtype=torch.float64))[0])
    assert torch.equal(out[-1], h_n[-1])


def test_layers_are_stacked():
    cell, x = make(layers=2), randn(5, 2, I)
    lower, upper = make(), make(inputs=H)
    lower.layers[0].load_state_dict(cell.layers[0].state_dict())
    upper.layers[0].load_state_dict(cell.layers[1].state_dict())
    torch.testing.assert_close(upper(lower(x)[0])[0], cell(x)[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("cut", [1, 3])
def test_a_sequence_in_two_parts_is_the_whole(cut):
    cell, x = make(layers=2), randn(6, 2, I)
    whole, last = cell(x)
    first, h = cell(x[:cut])
    second, h = cell(x[cut:], h)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-14)
    torch.testing.assert_close(h, last, rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
def test_weights_may_be_parametrised(backend):
    class Double(nn.Module):
        def forward(self, W):
            return 2 * W

    cell, doubled, x = make(backend=backend), make(backend=backend), randn(5, 2, I)
    with torch.no_grad():
        doubled.layers[0].nodes()[1].W_h.mul_(2)
    torch.nn.utils.parametrize.register_parametrization(cell.layers[0].nodes()[1], "W_h", Double())
    torch.testing.assert_close(cell(x), doubled(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_steps_are_the_sequence(batch_first, batched):
    cell = make(layers=2, batch_first=batch_first)
    x = randn(6, 2, I) if batched else randn(6, I)
    whole, last = cell(x.transpose(0, 1) if batch_first and batched else x)
    whole = whole.transpose(0, 1) if batch_first and batched else whole
    h = None
    for t in range(6):
        out, h = cell.step(x[t], h)
        assert out.shape == ((2, H) if batched else (H,))
        torch.testing.assert_close(out, whole[t], rtol=0, atol=1e-14)
    assert h.shape == last.shape
    torch.testing.assert_close(h, last, rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
def test_the_future_never_changes_the_past(backend):
    cell, x = make(layers=2, backend=backend), randn(6, 2, I)
    out, _ = cell(x)
    for t in range(5):
        changed = x.clone()
        changed[t + 1 :] = randn(5 - t, 2, I, seed=9)
        again, _ = cell(changed)
        assert torch.equal(again[: t + 1], out[: t + 1])
        assert not torch.equal(again[t + 1], out[t + 1])


def test_streams_of_a_batch_do_not_meet():
    cell, x = make(layers=2), randn(6, 3, I)
    changed = x.clone()
    changed[:, 1] = 5
    out, again = cell(x)[0], cell(changed)[0]
    assert torch.equal(out[:, [0, 2]], again[:, [0, 2]])
    assert not torch.equal(out[:, 1], again[:, 1])


def test_backends_agree():
    cell = make(layers=2)
    plain = make(layers=2, backend="reference")
    plain.load_state_dict(cell.state_dict())
    x = randn(5, 2, I)
    torch.testing.assert_close(cell(x)[0], plain(x)[0], rtol=0, atol=1e-13)
    assert (cell.backend, cell.chosen_backend) == ("auto", "native")
    assert plain.chosen_backend == "reference"


@pytest.mark.parametrize("switches", [{}, {"highway": True}, {"share_projection": True}], ids=str)
def test_gradcheck(switches):
    smooth = Genotype((Node((Op("hadamard", "tanh", 0.7), Op("add", "identity", 0.3))),) * 2, **switches)
    cell = make(smooth, 2, 2, 2)
    x, h_0 = randn(3, 2, 2).requires_grad_(), randn(2, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, h_0, *_: cell(x, h_0), (x, h_0, *cell.parameters()))


def test_dropout_acts_between_layers_in_training_only():
    cell, x = make(layers=2, dropout=0.5), randn(20, 4, I)
    plain = make(layers=2)
    torch.manual_seed(0)
    dropped = cell(x)
    assert torch.equal(dropped[1][0], plain(x)[1][0])  # the first layer's own states are whole
    assert not torch.equal(dropped[0], plain(x)[0])
    cell.eval()
    assert torch.equal(cell(x)[0], plain(x)[0])


def test_dropout_of_all_leaves_the_upper_layer_without_input():
    cell = make(layers=2, dropout=1.0)
    assert torch.equal(cell(randn(5, 2, I))[0], cell(randn(5, 2, I, seed=8))[0])


def test_dropout_without_a_second_layer_warns():
    with pytest.warns(UserWarning, match="no effect with num_layers=1"):
        GrownRNN(GENOTYPE, I, H, dropout=0.5)


def test_state_dict_pickle_and_copies_keep_the_function():
    cell, x = make(layers=2), randn(5, 2, I)
    out, _ = cell(x)
    other = make(layers=2, seed=5)
    assert not torch.equal(other(x)[0], out)
    other.load_state_dict(cell.state_dict())
    buffer = io.BytesIO()
    torch.save(cell, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=False)
    for one in (other, pickle.loads(pickle.dumps(cell)), copy.deepcopy(cell), saved):  # noqa: S301
        assert torch.equal(one(x)[0], out)
        assert one.genotype == GENOTYPE
    copied = copy.deepcopy(cell)
    copied.reset_parameters()
    assert torch.equal(cell(x)[0], out)


def test_state_dict_of_another_shape_is_refused():
    with pytest.raises(RuntimeError, match=r"layers\.0\.0\.W_x"):
        make(hidden=5).load_state_dict(make().state_dict())


def test_to_moves_weights_and_shares():
    cell = make()
    assert cell(randn(2, 1, I))[0].dtype == torch.float64
    cell.to(torch.float32)
    assert cell(randn(2, 1, I).float())[0].dtype == torch.float32
    assert {parameter.dtype for parameter in cell.parameters()} == {torch.float32}
    meta = GrownRNN(GENOTYPE, I, H).to("meta")
    assert meta.layers[0][0].shares.device.type == "meta"


def test_a_generator_fixes_the_weights_within_grus_bounds():
    weights = [torch.cat([p.flatten() for p in make(seed=seed).parameters()]) for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert 0.4 < weights[0].abs().max() <= 1 / H**0.5


@pytest.mark.parametrize("share", [False, True])
def test_op_parameters_are_live_views_of_the_contracts_shapes(share):
    cell = make(Genotype(GENOTYPE.nodes, share_projection=share), layers=2)
    views = cell.op_parameters(1, 0, 0)
    assert {name: tuple(view.shape) for name, view in views.items()} == {
        "W_x": (H, H),  # the second layer reads the first
        "b_x": (H,),
        "W_h": (H, H),
        "b_h": (H,),
    }
    assert set(cell.op_parameters(0, 0, 1)) == {"W_x", "b_x", "W_h"}
    x = randn(4, 2, I)
    before, _ = cell(x)
    with torch.no_grad():
        views["b_h"] += 1
    assert not torch.equal(cell(x)[0], before)


def test_load_op_parameters_writes_some_or_all_of_one_op():
    cell, values = make(), make(seed=3).op_parameters(0, 1, 2)
    before = copy.deepcopy(cell)
    cell.load_op_parameters(0, 1, 2, values)
    cell.load_op_parameters(0, 0, 1, {"b_x": torch.full((H,), 7.0)})
    for node, genes in enumerate(GENOTYPE.nodes):
        for op in range(len(genes.ops)):
            for name, value in cell.op_parameters(0, node, op).items():
                wanted = values[name] if (node, op) == (1, 2) else before.op_parameters(0, node, op)[name]
                wanted = torch.full_like(value, 7.0) if (node, op, name) == (0, 1, "b_x") else wanted
                assert torch.equal(value, wanted)


def test_load_op_parameters_names_what_does_not_fit():
    cell = make()
    with pytest.raises(ValueError, match=r"op 1 \(add/identity\) has W_x, b_x, W_h, not b_h"):
        cell.load_op_parameters(0, 0, 1, {"b_h": torch.zeros(H)})
    with pytest.raises(ValueError, match=r"W_h has shape \(4, 3\), expected \(4, 4\)"):
        cell.load_op_parameters(0, 0, 1, {"W_h": torch.zeros(H, 3)})


WRONG_SIZES = [
    ({"input_size": 0}, "input_size must be a whole number above 0, got 0"),
    ({"hidden_size": 2.5}, r"hidden_size must be a whole number above 0, got 2\.5"),
    ({"num_layers": True}, "num_layers must be a whole number above 0, got True"),
    ({"dropout": 1.5}, r"dropout must lie between 0 and 1, got 1\.5"),
    ({"backend": "cuda"}, "unknown backend 'cuda'; choose auto, reference, torch"),
    ({"bias": False}, "bias=False: without biases a chain's Hadamard ops"),
    ({"bias": 1}, "bias must be True or False, got 1"),
    ({"bidirectional": None}, "bidirectional must be True or False, got None"),
    ({"batch_first": 2}, "batch_first must be True or False, got 2"),
    ({"dtype": torch.int64}, r"dtype must be a real floating-point type, got torch\.int64"),
    ({"dtype": torch.complex64}, r"dtype must be .*, got torch\.complex64"),
]


def test_an_option_that_there_is_none_of_is_named():
    with pytest.raises(TypeError, match="unexpected keyword argument 'proj_size'"):
        GrownRNN(GENOTYPE, I, H, proj_size=2)


@pytest.mark.parametrize(("options", "message"), WRONG_SIZES)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        GrownRNN(**{"genotype": GENOTYPE, "input_size": I, "hidden_size": H, **options})


def test_what_is_no_genotype_is_named():
    with pytest.raises(TypeError, match=r"genotype is a int, expected a Genotype, a DagGenotype, a path or a name"):
        GrownRNN(3, I, H)
    with pytest.raises(GenotypeError, match=r"genotype\.json: no such file"):
        GrownRNN("genotype.json", I, H)


def test_a_genotype_is_given_by_path_run_folder_or_published_name(tmp_path):
    GENOTYPE.save(tmp_path / "genotype.json")
    assert {GrownRNN(where, I, H).genotype for where in (tmp_path, tmp_path / "genotype.json")} == {GENOTYPE}
    assert GrownRNN("enas", I, H).genotype == Genotype.load("enas")


WRONG_INPUTS = [
    ((5, 2, 4), None, r"x has shape \(5, 2, 4\), expected \(T, B, 3\)"),
    ((0, 2, 3), None, r"x has shape \(0, 2, 3\), expected .* T >= 1"),
    ((3,), None, r"x has shape \(3,\)"),
    ((5, 2, 3), (1, 3, 4), r"h_0 has shape \(1, 3, 4\), expected \(1, 2, 4\)"),
    ((5, 2, 3), (2, 4), r"h_0 has shape \(2, 4\), expected \(1, 2, 4\)"),
    ((5, 3), (1, 5), r"h_0 has shape \(1, 5\), expected \(1, 4\)"),
    ((5, 3), (1, 1, 4), r"h_0 has shape \(1, 1, 4\), expected \(1, 4\)"),
    ((5, 4), None, r"x has shape \(5, 4\), expected .*, or \(T, 3\) without a batch"),
]


@pytest.mark.parametrize(("x", "h_0", "message"), WRONG_INPUTS)
def test_a_wrong_shape_is_quoted(x, h_0, message):
    with pytest.raises(ValueError, match=message):
        make()(randn(*x), None if h_0 is None else randn(*h_0))


def test_a_wrong_shape_is_quoted_as_the_user_wrote_it():
    cell = make(batch_first=True)
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 4\), expected \(B, T, 3\) with T >= 1"):
        cell(randn(2, 5, 4))
    with pytest.raises(ValueError, match=r"x has shape \(2, 0, 3\), expected \(B, T, 3\)"):
        cell(randn(2, 0, 3))
    with pytest.raises(ValueError, match=r"h_0 has shape \(2, 1, 4\), expected \(1, 2, 4\)"):
        cell(randn(2, 5, 3), randn(2, 1, 4))
    for one in (cell, make()):
        with pytest.raises(ValueError, match=r"x_t has shape \(2, 4\), expected \(B, 3\), or \(3,\) without a batch"):
            one.step(randn(2, 4))
        with pytest.raises(ValueError, match=r"h_0 has shape \(1, 3, 4\), expected \(1, 2, 4\)"):
            one.step(randn(2, 3), randn(1, 3, 4))
        with pytest.raises(TypeError, match="x is a list"):
            one.step([1.0, 2.0, 3.0])


WRONG_TYPES = [
    ([[1.0]], None, "x is a list, expected a tensor"),
    (randn(5, 2, I), (randn(1, 2, H), randn(1, 2, H)), r"h_0 is a tuple, expected a tensor .* not \(h, c\)"),
]


@pytest.mark.parametrize("kind", ["cell", "backbone"])
@pytest.mark.parametrize(("x", "h_0", "message"), WRONG_TYPES)
def test_what_is_no_tensor_is_named(kind, x, h_0, message):
    model = make() if kind == "cell" else Backbone(I, H).double()
    with pytest.raises(TypeError, match=message):
        model(x, h_0)


def test_a_backbone_is_padded_and_padding_does_not_change_what_the_message_says_it_does_not():
    packed = nn.utils.rnn.pack_sequence([torch.zeros(3, I), torch.zeros(2, I)])
    with pytest.raises(
        TypeError, match=r"x is a PackedSequence, expected a tensor .* pad it with .*pad_packed_sequence"
    ):
        Backbone(I, H)(packed)
    cell, long, short = make(), randn(4, I), randn(2, I, seed=5)
    padded, lengths = nn.utils.rnn.pad_packed_sequence(nn.utils.rnn.pack_sequence([long, short]))
    out, _ = cell(padded)
    for b, alone in enumerate((long, short)):
        torch.testing.assert_close(out[: lengths[b], b], cell(alone)[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("batch_first", [False, True])
def test_last_states_are_tensors_of_their_own(batch_first):
    for x in (randn(5, 5, I), randn(5, I)):
        out, h_n = make(layers=2, batch_first=batch_first)(x)
        assert h_n.untyped_storage().data_ptr() != out.untyped_storage().data_ptr()
        assert h_n.untyped_storage().nbytes() == h_n.numel() * 8
    out, h = make().step(randn(2, I))
    assert h.untyped_storage().data_ptr() != out.untyped_storage().data_ptr()


@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
def test_autocast_is_taken_as_gru_takes_it_and_the_answer_has_the_weights_dtype(backend):
    cell = make(layers=2, backend=backend).float()
    readout, x = nn.Linear(H, I), randn(5, 2, I).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        handed_on = nn.Linear(I, I)(x)
        assert handed_on.dtype == torch.bfloat16
        for one in (x, handed_on):
            out, h_n = cell(one)
            assert out.dtype == h_n.dtype == torch.float32
            cell.step(one[0], h_n)
            readout(out).float().square().mean().backward()
    assert torch.equal(out, cell(handed_on.float())[0])
    assert all(p.grad.abs().sum() > 0 for p in cell.parameters() if p.numel())


def test_an_unknown_op_is_quoted_by_the_node():
    from grownas.cells.node import FixedNode

    with pytest.raises(GenotypeError, match="unknown op 'add/thanh'"):
        FixedNode(I, H, [Op("add", "thanh")])
    with pytest.raises(GenotypeError, match="at least one op"):
        FixedNode(I, H, [])


@pytest.mark.parametrize("op", DEFAULT_OPS, ids="/".join)
def test_an_empty_batch_is_a_batch(op):
    """As with nn.GRU: no rows in, no rows out."""
    out, h_n = make(Genotype((Node((Op(*op),)),)))(randn(5, 0, I))
    assert (out.shape, h_n.shape) == ((5, 0, H), (1, 0, H))


def test_it_learns_to_repeat_what_came_a_step_before():
    """A whole loop of an optimiser, as with any module."""
    torch.manual_seed(0)
    cell, readout = make(hidden=8), nn.Linear(8, I).double()
    optimizer = torch.optim.Adam([*cell.parameters(), *readout.parameters()], lr=0.02)
    x = randn(40, 4, I)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (readout(cell(x)[0])[1:] - x[:-1]).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * x.var().item()


def test_a_cell_that_ran_without_gradients_can_be_trained():
    cell = GrownRNN(Genotype((Node((Op("add", "tanh"),)),)), 2, 3)
    with torch.inference_mode():
        cell(torch.randn(5, 1, 2))
    cell(torch.randn(5, 1, 2))[0].sum().backward()
    assert cell.layer(0)[0].W_x.grad.abs().sum() > 0
