"""Public checkpoints as people have them: extras beside the weights, wrapped names, several networks, safetensors."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import fractions
import functools
import io
import os
import pathlib
import pickle
import re
import struct
import sys
import types
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_models import complete, fill, legacy, r2d2_shapes, superpoint_shapes
from torch import nn

from lf.core import BadInput, files
from lf.models import NETWORKS, checkpoint, inert_pickle, match, recognise, state_dicts, unpickle
from lf.models.resolve import resolve

PATH = pathlib.Path("it.pt")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def state():
    """Random weights of R2D2 under their public names."""
    torch.manual_seed(1)
    return fill(r2d2_shapes())


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def loaded(tmp_path, content):
    torch.save(content, tmp_path / "it.pt")
    return checkpoint.load(tmp_path / "it.pt")


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


# --- what stands beside the weights


class Colour(enum.Enum):
    RED = 1


class Bits(enum.IntFlag):
    A = 1
    B = 2


@dataclasses.dataclass
class Config:
    lr: float = 1e-3
    out: pathlib.Path = pathlib.Path("runs")


@dataclasses.dataclass(slots=True)
class Slots:
    lr: float = 1e-3


class Attributes(dict):
    """A dictionary with attributes, as settings of many libraries are."""

    def __init__(self, *args, **words):
        super().__init__(*args, **words)
        self.__dict__ = self


class Subclass(torch.Tensor):
    pass


def optimizer():
    layer = nn.Linear(4, 4)
    made = torch.optim.AdamW(layer.parameters(), amsgrad=True)
    layer(torch.ones(1, 4)).sum().backward()
    made.step()
    return made


def itself():
    ring = []
    ring.append(ring)
    return ring


def tagged():
    tensor = nn.Parameter(torch.ones(2))
    tensor.tag = Config()
    return tensor


def quiet(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


EXTRAS = {
    "numpy scalar": lambda: np.float64(0.5),
    "numpy bool": lambda: np.bool_(True),
    "numpy array": lambda: np.arange(4.0),
    "numpy objects": lambda: np.array([{}, "a"], dtype=object),
    "numpy date": lambda: np.datetime64("2020"),
    "numpy dtype": lambda: np.dtype("f4"),
    "numpy rng": lambda: (np.random.default_rng(0), np.random.RandomState(0).get_state()),
    "device": lambda: torch.device("cuda:1"),
    "size": lambda: torch.Size([1, 3]),
    "dtype": lambda: torch.float32,
    "layout": lambda: torch.strided,
    "rng": torch.get_rng_state,
    "set": lambda: {1, 2},
    "frozenset": lambda: frozenset([1]),
    "OrderedDict": lambda: collections.OrderedDict(a=1),
    "defaultdict": lambda: collections.defaultdict(functools.partial(collections.defaultdict, int), a={}),
    "Counter": lambda: collections.Counter("aab"),
    "deque": lambda: collections.deque([1], maxlen=3),
    "Namespace": lambda: argparse.Namespace(lr=1e-3, out=pathlib.Path("x")),
    "SimpleNamespace": lambda: types.SimpleNamespace(a=1),
    "paths": lambda: [pathlib.Path("/a/b"), pathlib.PureWindowsPath("c:/x")],
    "datetime": lambda: (datetime.datetime(2020, 1, 1), datetime.timedelta(1)),
    "enums": lambda: (Colour.RED, Bits.A | Bits.B),
    "complex": lambda: 1j,
    "bytes": lambda: (bytes(range(256)), bytearray(b"abc")),
    "dataclasses": lambda: (Config(), Slots()),
    "settings": lambda: Attributes(a=1, b=Attributes(c=2)),
    "module": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)),
    "optimizer": lambda: (optimizer(), optimizer().state_dict()),
    "function": lambda: (np.mean, len, dict, functools.partial(torch.relu)),
    "others": lambda: (slice(1, 2), range(3), ..., fractions.Fraction(1, 2), re.compile("a"), ValueError("x")),
    "numbers": lambda: (1 << 5000, -1 << 70, float("nan"), None, True),
    "keys": lambda: {1: 2, (1, 2): 3, None: 4, 1.5: 2, b"x": 1, 1 << 70: 1},
    "text": lambda: "\u1234\n\ud800",
    "ring": itself,
    "half": lambda: (torch.ones(3).bfloat16(), torch.ones(3).half()),
    "bytes of 8": lambda: (torch.ones(3).to(torch.float8_e4m3fn), torch.ones(3, dtype=torch.int8)),
    "unsigned": lambda: (torch.ones(3).to(torch.uint16), torch.ones(3).to(torch.uint64)),
    "complex tensor": lambda: (torch.ones(3, dtype=torch.complex64).conj(), torch.ones(3, dtype=torch.complex128)),
    "four bits": lambda: torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    "quantized": lambda: quiet(lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)),
    "per channel": lambda: quiet(
        lambda: torch.quantize_per_channel(torch.ones(3, 2), torch.ones(3), torch.zeros(3), 0, torch.quint8)
    ),
    "sparse": lambda: quiet(lambda: (torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr())),
    "nested": lambda: quiet(lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
    "meta": lambda: torch.ones(3, device="meta"),
    "parameters": lambda: (nn.Parameter(torch.ones(2)), nn.Buffer(torch.ones(2)), tagged()),
    "subclass": lambda: torch.ones(3).as_subclass(Subclass),
    "views": lambda: (torch.ones(1).expand(1000), torch.empty(0, 3), torch.tensor(1.0)),
    "storage": lambda: torch.ones(3).untyped_storage(),
}


@pytest.mark.filterwarnings("ignore:.*(protocol|TypedStorage|sparse|Sparse)")
@pytest.mark.parametrize("options", [{}, {"pickle_protocol": 5}, {"_use_new_zipfile_serialization": False}], ids=str)
@pytest.mark.parametrize("name", EXTRAS)
def test_what_stands_beside_the_weights_does_not_matter(name, options):
    data = quiet(lambda: saved({"extra": EXTRAS[name](), "state_dict": {"w": torch.arange(3.0)}}, **options))
    assert torch.equal(unpickle.read(data, PATH)["state_dict"]["w"], torch.arange(3.0))


def test_the_extras_are_more_than_torch_takes():
    """Never stricter than weights-only loading: what it refuses is counted, so that the list stays a hard one."""
    refused = []
    for name, make in EXTRAS.items():
        data = quiet(lambda make=make: saved({"extra": make(), "state_dict": {}}))
        try:
            quiet(lambda data=data: torch.load(io.BytesIO(data), weights_only=True))
        except pickle.UnpicklingError:
            refused.append(name)
    assert {"numpy scalar", "Namespace", "paths", "dataclasses"} <= set(refused)
    assert not {"set", "device", "size", "dtype", "quantized", "sparse", "half", "unsigned"} & set(refused)


def test_weights_are_those_of_the_file_without_extras(state, tmp_path):
    _, expected, _ = loaded(tmp_path, {"net": "Quad_L2Net_ConfCFS()", "state_dict": state})
    extras = {
        name: EXTRAS[name]() for name in ("numpy scalar", "numpy array", "set", "Namespace", "optimizer", "dtype")
    }
    row, own, _ = loaded(tmp_path, {**extras, "state_dict": collections.OrderedDict(state)})
    assert row == "r2d2"
    assert own.keys() == expected.keys()
    assert all(torch.equal(value, own[name]) for name, value in expected.items())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.quantize_per_tensor(torch.zeros(32, 32, 3, 3), 0.1, 0, torch.qint8), "a quantized tensor"),
        (lambda: torch.zeros(32, 32, 3, 3).to_sparse(), "a sparse tensor"),
        (lambda: torch.zeros(32, 32, 3, 3, device="meta"), "a tensor without numbers"),
        (lambda: np.zeros((32, 32, 3, 3)), "numpy.ndarray"),
        (lambda: torch.zeros(32, 32, 3, 3, dtype=torch.int8), r"\(32, 32, 3, 3\) of torch.int8"),
        (lambda: torch.zeros(32, 32, 3, 3, dtype=torch.complex64), r"\(32, 32, 3, 3\) of torch.complex64"),
        (
            lambda: torch.zeros(32, 32, 3, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
            r"\(32, 32, 3, 3\) of torch.float4_e2m1fn_x2",
        ),
    ],
)
def test_weights_that_are_no_plain_floats_are_named(make, said, state, tmp_path):
    with pytest.raises(BadInput, match=rf"looks like r2d2 but ops.3.weight is {said}; expected \(32, 32, 3, 3\)$"):
        loaded(tmp_path, {**state, "ops.3.weight": quiet(make)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_weights_of_other_float_types(dtype, state, tmp_path):
    cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    own = loaded(tmp_path, cast)[1]
    assert torch.equal(own["layers.1.conv.weight"], state["ops.3.weight"].to(dtype).float())


def test_an_ordered_dict_of_python_2():
    """In Python 2, items of an OrderedDict are an argument, and texts are bytes."""
    content = b"\x80\x02ccollections\nOrderedDict\n(l(lU\x01waK\x07aa\x85R."
    assert unpickle.read(complete(content), PATH) == {"w": 7}


def swapped(data):
    """The same checkpoint as a big-endian machine writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("/byteorder"):
                content = b"big"
            elif "/data/" in entry.filename:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            new.writestr(entry.filename, content)
    return buffer.getvalue()


def test_a_big_endian_file():
    read = unpickle.read(swapped(saved({"w": torch.arange(5.0)})), PATH)
    assert torch.equal(read["w"], torch.arange(5.0))


def test_a_file_that_was_unpacked_and_zipped_again():
    values, buffer = torch.rand(1000), io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({"w": values}))) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert torch.equal(unpickle.read(buffer.getvalue(), PATH)["w"], values)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as new:  # whose header asks for memory
        new.writestr("it/data.pkl", b"N.")
    with pytest.raises(BadInput, match="its zip entries are compressed in a way that torch does not read"):
        unpickle.read(buffer.getvalue(), PATH)


def test_a_file_without_checksums():
    torch.serialization.set_crc32_options(False)
    try:
        data = saved({"w": torch.arange(5.0)})
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(unpickle.read(data, PATH)["w"], torch.arange(5.0))
    damaged = bytearray(saved({"w": torch.arange(5.0)}))
    damaged[damaged.find(torch.arange(5.0).numpy().tobytes()) + 5] ^= 1
    with pytest.raises(BadInput, match="Bad CRC-32"):
        unpickle.read(bytes(damaged), PATH)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\0" * 257 + b"ustar" + bytes(300), "a tar archive; unpack it and give the checkpoint inside"),
        (struct.pack("<Q", 2) + b"{}" + bytes(9), "a safetensors file; rename it to .safetensors"),
    ],
)
def test_other_containers_are_named(data, text):
    with pytest.raises(BadInput, match=f"not a PyTorch checkpoint .{text}.; expected .pth, .pt or .ckpt"):
        unpickle.read(data, PATH)


def test_a_torchscript_program_is_named(tmp_path):
    quiet(lambda: torch.jit.save(torch.jit.script(nn.Linear(1, 1)), tmp_path / "it.pt"))
    with pytest.raises(
        BadInput, match=r"TorchScript program; save its weights with torch.save\(m.state_dict\(\), FILE"
    ):
        checkpoint.load(tmp_path / "it.pt")


def test_a_whole_module_is_named(tmp_path):
    with pytest.raises(
        BadInput, match=r"found an object of torch.nn.modules.linear.Linear; save its weights with torch"
    ):
        loaded(tmp_path, nn.Linear(1, 1))


# --- nothing runs, hangs or takes memory


class Runs:
    """Unpickled carelessly, this makes a folder; its class says how it is called."""

    def __init__(self, path, state=None, items=None, more=None):
        self.made = (os.mkdir, (str(path),), state, items, more)

    def __reduce__(self):
        return self.made


class Setattr:
    """Unpickled carelessly, this calls `__setstate__` with a chosen state."""

    def __setstate__(self, state):
        os.mkdir(state)

    def __reduce__(self):
        return Setattr, (), str(self.path)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_calls_builds_and_fills_of_placeholders_do_nothing(protocol, tmp_path):
    setter = Setattr()
    setter.path = tmp_path / "b"
    hostile = [Runs(tmp_path / "a", {"x": 1}, iter([1, 2]), iter([("k", 1)])), setter, Runs(tmp_path / "c")]
    read = inert_pickle.load(io.BytesIO(pickle.dumps({"w": hostile, "v": 3}, protocol)), {}, lambda pid: None)
    assert read["v"] == 3
    assert [type(each) for each in read["w"]] == [inert_pickle.Placeholder] * 3
    assert read["w"][0].items == {"k": 1}
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "calls",
    [
        b"cos\nmkdir\nX\x06\x00\x00\x00MARKER\x85R",  # REDUCE
        b"cos\nmkdir\nX\x06\x00\x00\x00MARKER\x85\x81",  # NEWOBJ
        b"cos\nmkdir\nX\x06\x00\x00\x00MARKER\x85}\x92",  # NEWOBJ_EX
        b"(X\x06\x00\x00\x00MARKERios\nmkdir\n",  # INST
        b"(cos\nmkdir\nX\x06\x00\x00\x00MARKERo",  # OBJ
        b"X\x02\x00\x00\x00osX\x05\x00\x00\x00mkdir\x93X\x06\x00\x00\x00MARKER\x85R",  # STACK_GLOBAL
        b"cbuiltins\ngetattr\ncos\npath\nX\x05\x00\x00\x00mkdir\x86RX\x06\x00\x00\x00MARKER\x85R",  # a result called
        b"cfunctools\npartial\ncos\nmkdir\n\x85RX\x06\x00\x00\x00MARKER\x85b",  # BUILD
        b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nmkdir\nN(X\x06\x00\x00\x00MARKERtNtR",  # a function as argument
        b"ccollections\ndefaultdict\ncos\nmkdir\n\x85RX\x06\x00\x00\x00MARKERK\x01s",  # a factory
    ],
)
def test_no_opcode_runs_a_function(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="holds no state dict"):
        recognise.adopt(unpickle.read(complete(b"\x80\x04" + calls + b"."), PATH), PATH)
    assert not [*tmp_path.iterdir()]


MANY = 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02)" + b"\x85" * MANY + b".",
        b"\x80\x02" + b"]" * MANY + b"a" * (MANY - 1) + b".",
        b"\x80\x02cos\nf\nq\x00X\x01\x00\x00\x00aq\x010" + b"h\x00)Rh\x01" * MANY + b"N" + b"s" * MANY + b".",
        b"\x80\x02]q\x00" + b"h\x00a" * MANY + b".",
        b"\x80\x02}("
        + b"".join(pickle.dumps(i * ((1 << 61) - 1), 2)[2:-1] + b"N" for i in range(1, MANY // 3))
        + b"u.",
        b"\x80\x02(" + b"}" * MANY + b"l.",
        b"\x80\x02ccollections\nOrderedDict\nq\x00(l"
        + b"(K\x01K\x02ta" * 1000
        + b"\x85q\x010("
        + b"h\x00h\x01R" * MANY
        + b"l.",
        b"\x80\x04X" + struct.pack("<I", 240) + b"m" * 240 + b"q\x000(" + b"h\x00h\x00\x93" * MANY + b"l.",
    ],
    ids=["tuples", "lists", "placeholders", "ring", "collisions", "dictionaries", "copies", "names"],
)
def test_nesting_and_numbers_of_things_take_neither_long_nor_the_process(content):
    with pytest.raises(BadInput, match=r"holds no state dict|fit no known family"):
        recognise.adopt(unpickle.read(complete(content), PATH), PATH)


def test_one_list_is_made_into_one_dictionary_however_often_it_is_called_for():
    calls = b"ccollections\nOrderedDict\nq\x00(l(K\x01K\x02ta\x85q\x010(" + b"h\x00h\x01R" * 5 + b"l."
    assert unpickle.read(complete(b"\x80\x02" + calls), PATH) == [{1: 2}, {}, {}, {}, {}]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\x80\x02" + b"N0" * 60 + b"N.", "a pickle of more than 100 opcodes; save the state dict alone"),
        (b"\x80\x02X" + struct.pack("<I", 600) + b"m" * 600 + b"2\x93.", "class whose name is no text of at most 500"),
        (b"\x80\x02K\x01K\x01\x93.", "class whose name is no text of at most 500 characters"),
        (b"\x80\x02cos\nf\nK\x01R.", "a call whose arguments are no tuple"),
        (b"\x80\x04\x82\x01.", "its opcode EXT1 is not supported"),
        (b"\x80\x02K\x01Q.", "a reference that is none of torch.save"),
        (b"\x80\x02R.", "pop from empty list"),
        (b"\x80\x02h\x05.", "5"),
        (
            b"\x80\x02(X\x07\x00\x00\x00storageNX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01NtQ.",
            "storage of an unknown kind",
        ),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))tR.", "a tensor without numbers"),
        (b"\x80\x02L" + b"9" * 5000 + b"L\n.", "Exceeds the limit"),
    ],
)
def test_damage_is_named(content, text, monkeypatch):
    monkeypatch.setattr(inert_pickle, "MOST_OPCODES", 100)
    with pytest.raises(BadInput, match=f"not a checkpoint of plain weights, or a truncated one .*{text}") as caught:
        unpickle.read(complete(content), PATH)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def view(size, stride, offset=0, count=4):
    """A legacy checkpoint of one tensor: a view of a storage of four numbers."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage, offset, size, stride, False, collections.OrderedDict())

    class Writer(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", count, None) if value is Storage else None

    buffer = io.BytesIO()
    Writer(buffer, 2).dump({"w": Tensor()})
    return legacy(buffer.getvalue()) + pickle.dumps(["0"], 2) + struct.pack("<q", count) + bytes(4 * count)


def test_a_tensor_takes_no_more_memory_than_its_file():
    assert unpickle.read(view((2, 2), (2, 1)), PATH)["w"].tolist() == [[0, 0], [0, 0]]
    huge = unpickle.read(view((1 << 20, 1 << 20), (0, 0)), PATH)["w"]  # a view of one number
    assert huge.untyped_storage().nbytes() == 16
    with pytest.raises(BadInput, match=r"fit no known family"):
        recognise.adopt({"w": huge}, PATH)
    for size, stride, offset in (((5,), (1,), 0), ((2, 2), (1 << 40, 1), 0), ((1,), (1,), 4), ((1,), (1,), -1)):
        with pytest.raises(BadInput, match="truncated"):
            unpickle.read(view(size, stride, offset), PATH)
    with pytest.raises(BadInput, match="of more than 64 dimensions"):
        unpickle.read(view((1,) * 100, (1,) * 100), PATH)


def test_a_storage_whose_numbers_are_not_in_the_file_is_refused():
    """Otherwise, uninitialised memory would become weights."""
    whole = view((4,), (1,))
    cut = whole[: whole.rindex(b"\x80\x02")] + pickle.dumps([], 2)
    with pytest.raises(BadInput, match="the numbers of a tensor are missing"):
        unpickle.read(cut, PATH)


def test_many_dictionaries_of_tensors_are_refused(monkeypatch, state):
    monkeypatch.setattr(recognise, "MOST_DICTS", 2)
    with pytest.raises(BadInput, match="holds 3 dictionaries of tensors; save the state dict alone"):
        recognise.adopt([dict(state) for _ in range(3)], PATH)


def test_the_documented_limits_are_those_of_the_code():
    text = (pathlib.Path(__file__).parents[1] / "docs/weights.md").read_text()
    for row in (
        f"size of the file | {files.MAX_MODEL_BYTES >> 30} GiB |",
        f"{unpickle.MOST_INFLATED} times that of the file where an entry is deflated |",
        f"opcodes of a pickle | {inert_pickle.MOST_OPCODES:,};",
        f"name of a class, with its module | {inert_pickle.MOST_NAMED} characters |",
        f"dimensions of a tensor | {unpickle.MOST_DIMENSIONS} |",
        f"dictionaries of five or more tensors | {recognise.MOST_DICTS};",
        f"nested containers that are searched for weights | {state_dicts.MOST_LEVELS} levels |",
    ):
        assert row in text
    assert recognise.LEAST == 5


def test_names_from_a_file_cannot_write_on_the_terminal(state, tmp_path):
    nasty = "\x1b[31mred\n" * 100
    with pytest.raises(BadInput) as caught:
        loaded(tmp_path, {**state, nasty: torch.ones(3)})
    assert r"also holds '\x1b[31mred\n" in str(caught.value)
    with pytest.raises(BadInput) as other:
        loaded(tmp_path, {"a": {nasty: state, "b": {**state, "clf.bias": torch.ones(2)}}})
    for error in (caught, other):
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 400


# --- what wraps the names, and where the state dict stands


def test_counters_may_be_missing(state, tmp_path):
    without = {name: value for name, value in state.items() if "num_batches" not in name}
    row, own, _ = loaded(tmp_path, {"state_dict": without})
    assert row == "r2d2"
    assert own["layers.0.norm.num_batches_tracked"] == 0
    assert own["layers.0.norm.num_batches_tracked"].dtype == torch.int64
    some = {name: value for name, value in state.items() if name != "ops.1.num_batches_tracked"}
    own = loaded(tmp_path, some)[1]
    assert (own["layers.0.norm.num_batches_tracked"], own["layers.1.norm.num_batches_tracked"]) == (0, 7)
    artifact = resolve(tmp_path / "it.pt")
    assert torch.equal(checkpoint.network(artifact).state_dict()["layers.0.conv.weight"], state["ops.0.weight"])


@pytest.mark.parametrize(
    "prefix",
    [
        *("_orig_mod.", "module.", "model.", "net.", "network.", "module._orig_mod.", "_orig_mod.module.model."),
        *("model.net.network.module.", "extractor.", "pipeline.extractor.model.", "_fsdp_wrapped_module."),
    ],
)
def test_prefixes_of_names(prefix, state, tmp_path):
    row, own, _ = loaded(tmp_path, {"state_dict": prefixed(prefix, state)})
    assert row == "r2d2"
    assert torch.equal(own["layers.0.conv.weight"], state["ops.0.weight"])


def test_wrappers_inside_names(state, tmp_path):
    inner = {
        name.replace("ops.", "ops._orig_mod.").replace("clf.", "clf.module."): value for name, value in state.items()
    }
    assert loaded(tmp_path, inner)[0] == "r2d2"


def test_an_averaged_model_of_torch(state, tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(checkpoint.build("wren"))
    assert loaded(tmp_path, averaged.state_dict())[0] == "wren"
    assert loaded(tmp_path, {"n_averaged": torch.tensor(3), **prefixed("module.", state)})[0] == "r2d2"


@pytest.mark.parametrize(
    "wrap",
    [
        *[
            lambda s, key=key: {key: s, "epoch": 1}
            for key in ("state_dict", "model_state_dict", "model", "net", "network")
        ],
        lambda s: {
            "state_dict": prefixed("model.", s),
            "epoch": 1,
            "hparams_name": "args",
            "callbacks": {},
        },  # Lightning
        lambda s: {"checkpoint": {"model": {"state_dict": s}}, "optimizer": optimizer().state_dict()},
        lambda s: {"weights": [s, 3], "mean": torch.zeros(3)},
        lambda s: (s, 3),
        lambda s: Attributes(model=Attributes(s)),
        lambda s: {**s, "epoch": 3, "args": argparse.Namespace(), "optimizer": optimizer().state_dict()},
        lambda s: {"model": s, "ema": {name: value.clone() for name, value in s.items()}},  # a copy
        lambda s: {**prefixed("model.", s), **prefixed("net.", s)},  # one network under two names
        lambda s: {"state_dict": s, "teacher": {"fc.weight": torch.ones(3, 3)}},
    ],
)
def test_places_of_the_state_dict(wrap, state, tmp_path):
    row, own, _ = loaded(tmp_path, wrap(state))
    assert row == "r2d2"
    assert torch.equal(own["layers.0.conv.weight"], state["ops.0.weight"])


# --- several networks: told, never chosen


@pytest.mark.parametrize(
    ("wrap", "text"),
    [
        (
            lambda a, b: {"model": a, "ema": b},
            r"holds r2d2 under \['model'\] and r2d2 under \['ema'\], which differ; save the one you want alone, "
            r"for example torch.save\(torch.load\(FILE\)\['ema'\], OUT\)",
        ),
        (
            lambda a, b: {"state_dict": a, "model_state_dict": b},
            r"under \['state_dict'\] and r2d2 under \['model_state",
        ),
        (lambda a, b: {**a, "ema": b}, r"holds r2d2 at its top level and r2d2 under \['ema'\], which differ"),
        (
            lambda a, b: {"state_dict": a, "callbacks": {"EMA": {"weights": prefixed("model.", b)}}},
            r"and r2d2 under \['callbacks'\]\['EMA'\]\['weights'\], which differ",
        ),
        (lambda a, b: [a, b], r"holds r2d2 under \[0\] and r2d2 under \[1\], which differ"),
        (
            lambda a, b: {"teacher": fill(superpoint_shapes()), "student": a},
            r"holds superpoint under \['teacher'\] and r2d2 under \['student'\], which differ",
        ),
        (
            lambda a, b: {**prefixed("model.", a), **prefixed("ema.", b)},
            "looks like r2d2 but also holds ema.ops.0.weight and 45 more",
        ),
        (
            lambda a, b: {**prefixed("model.", a), **prefixed("net.", b)},
            r"looks like r2d2 but its model\..+ and net\..+ differ; save the one you want alone",
        ),
        (
            lambda a, b: {**prefixed("a.", a), **prefixed("b.", b), **prefixed("c.", b)},
            "holds r2d2 under a. and r2d2 under b. and r2d2 under c.; save one alone",
        ),
        (
            lambda a, b: {**prefixed("extractor.", a), **{f"matcher.{i}": torch.ones(3) for i in range(60)}},
            "holds r2d2 under extractor., and other tensors; save one alone",
        ),
        (lambda a, b: {**prefixed("model.", a), "loss.weight": torch.ones(3)}, "r2d2 but also holds loss.weight$"),
    ],
)
def test_several_networks_are_told(wrap, text, state, tmp_path):
    with pytest.raises(BadInput, match=text):
        loaded(tmp_path, wrap(state, fill(r2d2_shapes())))


def test_networks_of_the_same_names_and_shapes_are_told(tmp_path):
    with pytest.raises(
        BadInput,
        match=r"fits r2d2 and fast-r2d2 alike, whose tensors have the same names and shapes; expected a .safetensors w",
    ):
        loaded(tmp_path, checkpoint.build("r2d2").state_dict())
    with pytest.raises(BadInput, match="fits kp2d and kp2dtiny-baseline alike"):
        loaded(tmp_path, {"state_dict": checkpoint.build("kp2d").state_dict()})


def test_public_names_of_two_families_that_fit_are_told(state, monkeypatch):
    other = types.SimpleNamespace(adopt=lambda state: ("wren", {}))
    monkeypatch.setitem(sys.modules, "another", other)
    monkeypatch.setitem(NETWORKS, "another", types.SimpleNamespace(module="another"))
    with pytest.raises(BadInput, match="fits r2d2 and wren alike"):
        recognise.adopt(state, PATH)


def test_our_own_names_are_recognised_without_a_card(tmp_path):
    network = checkpoint.build("wren")
    row, own, weights = loaded(tmp_path, {"model": prefixed("module.", network.state_dict())})
    assert row == "wren"
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())
    assert weights["origin"] == "it.pt"


def test_names_that_differ_in_what_wraps_them_stay_apart(monkeypatch):
    """A network of a plug-in may call its own parts `net` and `model`."""
    made = nn.ModuleDict({"net": nn.Linear(2, 2), "model": nn.Linear(2, 2)})
    row = types.SimpleNamespace(build=lambda: made, for_classes=lambda count: row, per_class=0)
    monkeypatch.setitem(NETWORKS, "parts", row)
    name, own = match.match(made.state_dict(), [("parts", match.itself)])
    assert name == "parts"
    assert own.keys() == made.state_dict().keys()


# --- safetensors without a card


@pytest.fixture(scope="module")
def foreign(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("foreign") / "r2d2.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path, metadata={"format": "pt"})
    return path


def test_a_safetensors_without_a_card_is_a_checkpoint(foreign, state, tmp_path):
    artifact = resolve(foreign)
    assert (artifact.card.model, artifact.card.weights["origin"]) == ("r2d2", "r2d2.safetensors")
    assert artifact.card.weights["sha256"] == artifact.sha256
    assert artifact.card.weights["licence"] == NETWORKS["r2d2"].licence
    assert torch.equal(checkpoint.network(artifact).state_dict()["layers.0.conv.weight"], state["ops.0.weight"])
    save_file(prefixed("model.", {**state, "more": torch.ones(1)}), tmp_path / "more.safetensors")
    with pytest.raises(BadInput, match=r"more.safetensors: checkpoint looks like r2d2 but also holds more$"):
        resolve(tmp_path / "more.safetensors")


def test_every_command_takes_a_public_checkpoint(lf, foreign, drawn_photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said, error = lf("inspect", foreign)
    assert (code, error, "model            r2d2" in said) == (0, "", True)
    assert lf("export", foreign, "--size", "32x32") == (0, "r2d2.onnx\n", "")
    network = checkpoint.build("wren").state_dict()
    save_file(network, "small.safetensors")
    torch.save({"state_dict": prefixed("model.", network)}, "lightning.ckpt")
    words = ("--backend", "torch", "--data", "procedural:1", "--protocol", "kp2d", "--repeats", "0")
    for path in ("small.safetensors", "lightning.ckpt"):
        code, said, error = lf("bench", path, *words)
        assert (code, error, "| wren" in said) == (0, "", True)
    few = ("steps=1", "batch=1", "size=64", "points=8", "relabel=", "init=small.safetensors")
    code, said, error = lf("train", "wren", *[f"--set={s}" for s in few], "--photos", drawn_photos, "--out", "run")
    assert (code, said, error) == (0, "run/wren.safetensors\n", "")


# --- the cases that people met


@pytest.mark.parametrize("case", ["04-checkpoint-with-extras", "05-no-num_batches_tracked", "06-wrappers-of-names"])
def test_shared_cases(case, shared):
    _, expected, _ = checkpoint.load(shared / "cases/04-checkpoint-with-extras/reference.pt")
    paths = [path for path in (shared / "cases" / case).iterdir() if path.name != "README"]
    assert paths
    for path in [*paths, shared / "cases/07-foreign-safetensors/r2d2.safetensors"]:
        row, own, _ = checkpoint.load(path)
        assert row == "r2d2"
        assert all(torch.equal(own[name], value) for name, value in expected.items() if "tracked" not in name)
