"""A stale hit is impossible: whatever code can reach is in the key of a cached recording, or caching is refused."""

from __future__ import annotations

import collections
import enum
import functools
import hashlib
import importlib
import importlib.metadata
import logging
import operator
import sys
import textwrap
import threading
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn

import featattn_neuro as fn
from featattn_neuro.errors import ConfigError
from featattn_neuro.nets.fingerprint import digest, network_digest, surroundings
from featattn_neuro.nets.weights import state_tensors, weights_sha256

GAIN = 2.0
LOG = logging.getLogger(__name__)

HELPERS = """
    FACTOR = 2.0
    TABLE = [2.0]

    def scale(x):
        return x * FACTOR
"""
NETWORK = """
    import torch
    from torch import nn
    import key_helpers

    GAIN = 2.0

    def gained(x):
        return x * GAIN

    class Plain(nn.Module):
        SCALE, TENSOR, TABLE = [2.0], torch.tensor(2.0), {"a": 2.0}

        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(3, 2, 1), nn.Identity()
            self.steps = {"a": 2.0, "b": 3.0}

        def forward(self, x):
            return self.out(self.after(self.conv(x)))

    class ClassList(Plain):
        def after(self, x):
            return x * self.SCALE[0]

    class ClassTensor(Plain):
        def after(self, x):
            return x * self.TENSOR

    class ClassDictionary(Plain):
        def after(self, x):
            return x * self.TABLE["a"]

    class ThroughModule(Plain):
        def after(self, x):
            return key_helpers.scale(x)

    class ConstantOfModule(Plain):
        def after(self, x):
            return x * key_helpers.FACTOR

    class ModuleAsValue(Plain):
        def after(self, x):
            return getattr(key_helpers, "sca" + "le")(x)

    class ImportsInside(Plain):
        def after(self, x):
            from key_helpers import scale
            return scale(x)

    class Comprehension(Plain):
        def after(self, x):
            return torch.stack([one * GAIN for one in x])

    class Lambda(Plain):
        def after(self, x):
            return (lambda y: gained(y))(x)

    class OrderOfSteps(Plain):
        def after(self, x):
            for factor in self.steps.values():
                x = (x + factor) * factor
            return x

    class ByName(Plain):
        def after(self, x):
            return globals()["gain" + "ed"](x)
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A network's module and one that it uses, as files of a user."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in (("key_helpers", HELPERS), ("key_network", NETWORK)):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    importlib.invalidate_caches()
    yield importlib.import_module("key_network"), importlib.import_module("key_helpers")
    for name in ("key_network", "key_helpers"):
        del sys.modules[name]


def images():
    return fn.load_stimuli(np.random.default_rng(0).standard_normal((3, 3, 4, 4)).astype(np.float32), label=None)


def _runs(net: Any, cache: Any, layers: str = "out", **options: Any) -> tuple[bool, Any]:
    calls: list[Any] = []
    found = fn.record(net, images(), layers, cache=cache, progress=lambda *a: calls.append(a), **options)
    return bool(calls), found.load()


def _set(place: str, name: str, value: Any) -> Any:
    return lambda network, helpers, net: setattr({"network": network, "helpers": helpers}[place], name, value)


CHANGES = {
    "ClassList": lambda network, helpers, net: operator.setitem(network.Plain.SCALE, 0, 5.0),
    "ClassTensor": lambda network, helpers, net: network.Plain.TENSOR.fill_(5.0),
    "ClassDictionary": lambda network, helpers, net: network.Plain.TABLE.update(a=5.0),
    "ThroughModule": _set("helpers", "scale", lambda x: x * 7),
    "ConstantOfModule": _set("helpers", "FACTOR", 7.0),
    "ModuleAsValue": _set("helpers", "FACTOR", 7.0),
    "ImportsInside": _set("helpers", "FACTOR", 7.0),
    "Comprehension": _set("network", "GAIN", 7.0),
    "Lambda": _set("network", "GAIN", 7.0),
    "OrderOfSteps": lambda network, helpers, net: setattr(net, "steps", {"b": 3.0, "a": 2.0}),
    "ByName": _set("network", "GAIN", 7.0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_code_reaches_is_in_the_key(modules, tmp_path, name):
    network, helpers = modules
    net = getattr(network, name)().eval()
    assert _runs(net, tmp_path)[0]
    assert not _runs(net, tmp_path)[0], "the same recording is made once"
    CHANGES[name](network, helpers, net)
    ran, second = _runs(net, tmp_path)
    assert ran, "something changed and the old recording was given"
    np.testing.assert_array_equal(second.response, fn.record(net, images(), "out").response)


def test_an_edited_helper_file_is_in_the_key(modules, tmp_path):
    network, helpers = modules
    net = network.ThroughModule().eval()
    before = network_digest(net)
    (tmp_path / "key_helpers.py").write_text(textwrap.dedent(HELPERS).replace("x * FACTOR", "x * FACTOR * 3"))
    importlib.invalidate_caches()
    importlib.reload(helpers)
    assert network_digest(net) != before


def test_a_reduction_is_followed_like_the_network(tmp_path, monkeypatch):
    def reduction(maps):
        return torch.stack([GAIN * one.mean((1, 2)) for one in maps])

    net = nn.Sequential(nn.Conv2d(3, 2, 1)).eval()
    assert _runs(net, tmp_path, "0", reduce=reduction)[0]
    assert not _runs(net, tmp_path, "0", reduce=reduction)[0]
    monkeypatch.setitem(globals(), "GAIN", 3.0)
    assert _runs(net, tmp_path, "0", reduce=reduction)[0]


@pytest.mark.parametrize("package", ["torch", "numpy", "featattn_neuro"])
def test_versions_are_in_the_key(tmp_path, monkeypatch, package):
    net = nn.Sequential(nn.Conv2d(3, 2, 1)).eval()
    assert _runs(net, tmp_path, "0")[0]
    assert not _runs(net, tmp_path, "0")[0]
    known = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name == package else known(name))
    assert _runs(net, tmp_path, "0")[0], "another version, and the old recording was given"


@pytest.mark.parametrize("folder", ["schema", "arrays", "nets", "io", "api"])
def test_the_packages_own_code_is_in_the_key(tmp_path, monkeypatch, folder):
    from featattn_neuro.nets import fingerprint

    for one in ("schema", "arrays", "nets", "io", "api"):
        (tmp_path / one).mkdir()
        (tmp_path / one / "a.py").write_text("A = 1")
    monkeypatch.setattr(fingerprint, "__file__", str(tmp_path / "nets" / "fingerprint.py"))
    before = fingerprint._own_code.__wrapped__()
    (tmp_path / folder / "a.py").write_text("A = 2")
    assert fingerprint._own_code.__wrapped__() != before


class Colour(enum.Enum):
    RED = 1


def _subclass(kind: type, content: Any, extra: float) -> Any:
    made = type("Mine", (kind,), {})(content)
    made.extra = extra
    return made


@functools.wraps(torch.relu)
def _in_disguise(x):
    return x * GAIN


def _function(factor: float, attribute: float = 0.0) -> Any:
    def inner(x: Any, by: float = factor) -> Any:
        return x * by

    inner.attribute = attribute  # type: ignore[attr-defined]
    return inner


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.array([[1], "a"], object), np.array([[2], "a"], object)),
        (collections.deque([_function(1.0)]), collections.deque([_function(2.0)])),
        (collections.defaultdict(lambda: 1.0), collections.defaultdict(lambda: 2.0)),
        (_subclass(list, [1], 1.0), _subclass(list, [1], 2.0)),
        (_subclass(float, 1.0, 1.0), _subclass(float, 2.0, 1.0)),
        ({"a": 1}.get, {"a": 2}.get),
        (_function(1.0, 1.0), _function(1.0, 2.0)),
        ([0], (0,)),
        (functools.partial(_function(1.0), by=1), functools.partial(_function(1.0), by=2)),
        (torch.tensor([1 + 2j]).conj(), torch.tensor([1 + 2j])),
    ],
    ids=["objects", "deque", "default", "list", "float", "bound", "attribute", "kind", "partial", "conjugate"],
)
def test_values_that_differ_have_another_digest(one, other):
    assert digest(one) == digest(one)
    assert digest(one) != digest(other)


def test_a_function_is_known_by_where_it_was_written(monkeypatch):
    before = digest(_in_disguise)  # its __module__ is torch's
    monkeypatch.setitem(globals(), "GAIN", 3.0)
    assert digest(_in_disguise) != before


def _cached(body: str) -> dict[str, Any]:
    text = f"""
        class A:
            @functools.cache
            def factor(self):
                return {body}

            def __call__(self, x):
                return x * self.factor()

        @functools.lru_cache(maxsize=2)
        def after(x):
            return x * {body}
    """
    namespace: dict[str, Any] = {"functools": functools, "__name__": __name__}
    exec(textwrap.dedent(text), namespace)
    return namespace


@pytest.mark.parametrize("held", ["after", "A", "of a module"])
def test_the_code_below_a_cache_is_in_the_key(held):
    def value(body: str) -> Any:
        made = _cached(body)
        if held != "of a module":
            return made[held]
        module = types.ModuleType("cached_helpers")
        vars(module).update(after=made["after"])
        return module

    assert digest(value("2")) == digest(value("2")) != digest(value("37"))


def test_patches_of_installed_classes_and_hooks_on_all_modules_are_seen(monkeypatch):
    net = nn.Sequential(nn.ReLU())
    before = network_digest(net)
    with monkeypatch.context() as patch:
        patch.setattr(nn.ReLU, "forward", lambda self, x: x * 2)
        assert network_digest(net) != before
    assert network_digest(net) == before
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output * 2)
    assert network_digest(net) != before
    handle.remove()
    assert network_digest(net) == before


def _weight_normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 1)))


def test_hooks_of_state_dicts_are_not_in_the_key():
    """They act on no forward pass, and their running numbers differ from network to network."""
    assert network_digest(_weight_normed()) == network_digest(_weight_normed())
    net = _weight_normed()
    before = network_digest(net)
    net.register_state_dict_pre_hook(lambda *a: None)
    net.register_load_state_dict_post_hook(lambda *a: None)
    assert network_digest(net) == before
    net.register_forward_hook(lambda module, inputs, output: output * 2)
    assert network_digest(net) != before


class _HeadOnly(nn.Module):
    """Saves its head alone, as networks on a frozen backbone do."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return self.head(self.backbone(x))


class _Overriding(_HeadOnly):
    def state_dict(self, *args, **kwargs):
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if "backbone" not in k}


class _Halving(_HeadOnly):
    def state_dict(self, *args, **kwargs):
        return {k: torch.zeros_like(v) for k, v in super().state_dict(*args, **kwargs).items()}


class _Saving(_HeadOnly):
    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[f"{prefix}packed"] = torch.ones(1)


def _popping() -> nn.Module:
    net = _HeadOnly()

    def pop(module, state, prefix, local_metadata):
        for key in [key for key in state if "backbone" in key]:
            del state[key]

    net.register_state_dict_post_hook(pop)
    return net


@pytest.mark.parametrize("make", [_Overriding, _Halving, _popping])
def test_weights_that_a_state_dict_leaves_out_are_in_the_key(tmp_path, make):
    torch.manual_seed(0)
    net, other = make(), make()
    other.head.load_state_dict(net.head.state_dict())
    assert weights_sha256(net) != weights_sha256(other)
    _, first = _runs(net, tmp_path, "backbone")
    ran, second = _runs(other, tmp_path, "backbone")
    assert ran
    assert not np.array_equal(first.response, second.response)
    assert not _runs(other, tmp_path, "backbone")[0]
    with torch.no_grad():
        other.backbone.weight.mul_(2)  # known again neither by the counters of what is saved
    assert _runs(other, tmp_path, "backbone")[0]


def _as_published(net: nn.Module) -> str:
    """The hash as it was defined first, over `state_dict`."""
    found = hashlib.sha256()
    for name, value in net.state_dict().items():
        if isinstance(value, torch.Tensor):
            found.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
            found.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _tied() -> nn.Module:
    part = nn.Linear(2, 2)
    net = nn.Sequential(part, nn.Sequential(part, nn.BatchNorm1d(2)), nn.Linear(2, 2, bias=False))
    net.register_buffer("grid", torch.ones(2), persistent=False)
    net.register_buffer("nothing", None)
    return net


class _WithExtra(nn.Linear):
    def get_extra_state(self):
        return torch.tensor(2.0)

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize(
    "make",
    [
        lambda: fn.load_model("digits_cnn").module,
        lambda: fn.load_model("resnet18", weights="random").module,
        _tied,
        lambda: nn.Sequential(nn.Linear(2, 2), _WithExtra(2, 2)),
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))),
        lambda: nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(2, 2))),
        _Saving,
    ],
)
def test_the_hash_of_weights_that_are_saved_is_the_published_one(make):
    net = make()
    if isinstance(net, _Saving):
        assert next(iter(dict(state_tensors(net)))) == "packed"
        assert len(dict(state_tensors(net))) == 5
    else:
        assert weights_sha256(net) == _as_published(net)


def test_networks_that_hold_themselves_and_traced_ones_have_a_digest():
    net = nn.Sequential(nn.Conv2d(1, 1, 1))
    net.whole = [net]
    net.forward = net[0].forward
    assert network_digest(net) == network_digest(net)
    halved = nn.Sequential(nn.ReLU())
    traced, same, other = (fx.symbolic_trace(one) for one in (halved, halved, nn.Sequential(nn.ReLU(), nn.ReLU())))
    assert network_digest(traced) == network_digest(same) != network_digest(other)


def _backend(path: str, value: Any) -> Any:
    *places, name = path.split(".")
    owner = functools.reduce(getattr, places, torch.backends)
    return lambda: setattr(owner, name, value)


SWITCHES = {
    **{
        f"{path} {value}": _backend(f"{path}.fp32_precision", value)
        for path, value in (
            ("cuda.matmul", "tf32"), ("cudnn.conv", "ieee"), ("cudnn.rnn", "ieee"), ("mkldnn.conv", "bf16"),
            ("mkldnn.matmul", "bf16"), ("mkldnn.rnn", "bf16"),
        )
    },
    "matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "cudnn tf32": _backend("cudnn.allow_tf32", False),
    "flash": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "mem_efficient": lambda: torch.backends.cuda.enable_mem_efficient_sdp(False),
    "math": lambda: torch.backends.cuda.enable_math_sdp(False),
    "cudnn attention": lambda: torch.backends.cuda.enable_cudnn_sdp(False),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "cudnn.deterministic": _backend("cudnn.deterministic", True),
    "cudnn.benchmark": _backend("cudnn.benchmark", True),
    "cudnn.enabled": _backend("cudnn.enabled", False),
    "mkldnn.enabled": _backend("mkldnn.enabled", False),
}  # fmt: skip


def _switches_back() -> None:
    torch.set_float32_matmul_precision("highest")
    for one in ("cuda.matmul", "mkldnn.conv", "mkldnn.matmul", "mkldnn.rnn"):
        _backend(f"{one}.fp32_precision", "none")()
    _backend("cudnn.conv.fp32_precision", "tf32")()
    _backend("cudnn.rnn.fp32_precision", "tf32")()
    _backend("cudnn.allow_tf32", True)()  # its getter raises until it agrees again with the two above
    for one in ("flash", "mem_efficient", "math", "cudnn"):
        getattr(torch.backends.cuda, f"enable_{one}_sdp")(True)
    torch.use_deterministic_algorithms(False)
    for one, value in (("deterministic", False), ("benchmark", False), ("enabled", True)):
        _backend(f"cudnn.{one}", value)()
    _backend("mkldnn.enabled", True)()


@pytest.mark.skipif(
    not hasattr(torch.backends.cudnn, "conv"), reason="this version of torch has no switches by operation"
)
@pytest.mark.parametrize("switch", SWITCHES)
def test_switches_of_kernels_are_in_the_key(switch):
    cpu = torch.device("cpu")
    before = surroundings(cpu)
    try:
        SWITCHES[switch]()
        assert digest(surroundings(cpu)) != digest(before)
    finally:
        _switches_back()
    assert surroundings(cpu) == before


def test_older_versions_of_torch_have_fewer_switches(monkeypatch):
    for library in ("cuda", "cudnn", "mkldnn"):
        monkeypatch.setattr(torch.backends, library, _Without(getattr(torch.backends, library)))
    before = surroundings(torch.device("cpu"))
    assert (before["precision"]["matmul"], before["precision"]["tf32"]) == ("highest", True)


def test_defaults_of_torch_and_how_weights_lie_in_memory_are_in_the_key(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    weights = weights_sha256(net)
    assert _runs(net, tmp_path, "0")[0]
    assert not _runs(net, tmp_path, "0")[0]
    torch.set_default_dtype(torch.float64)
    try:
        assert _runs(net, tmp_path, "0")[0]
    finally:
        torch.set_default_dtype(torch.float32)
    before = digest(surroundings(torch.device("cpu")))
    with torch.device("meta"):
        assert digest(surroundings(torch.device("cpu"))) != before
    net.to(memory_format=torch.channels_last)
    assert _runs(net, tmp_path, "0")[0]
    assert not _runs(net, tmp_path, "0")[0]
    assert weights_sha256(net) == weights


class _Without:
    """A library's module as before its operations had switches of their own."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        if name in ("conv", "rnn", "matmul"):
            raise AttributeError(name)
        return getattr(self.module, name)


def test_the_key_is_the_same_in_another_process():
    import subprocess

    script = (
        "import re, torchvision; from featattn_neuro.nets.fingerprint import digest, network_digest;"
        "net = torchvision.models.mobilenet_v3_small(weights=None); resize = torchvision.transforms.Resize(3);"
        "print(network_digest(net), digest([resize, re.compile('a')]))"
    )
    found = {
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(found) == 1


def _evaluates(x: Any) -> Any:
    return eval("x * GAIN")


def _any_module(x: Any) -> Any:
    return sys.modules["math"].floor(x)


class _Elsewhere(torch.Tensor):
    """Its numbers are on no device of this process, and its error has no words."""

    def detach(self) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (threading.Lock(), "a lock .* cannot be part of a content key"),
        ({"a": {"b": threading.Lock()}}, r"reached through 'a' > 'b'\) cannot be part"),
        (np.frompyfunc(lambda x: x, 1, 1), "np.vectorize"),
        (_evaluates, "'eval' .*it runs code that cannot be read"),
        (_any_module, r"'sys.modules' .*import it instead"),
        (torch.ones(2).to_sparse(), "a Tensor .* record without out= and cache="),
        (torch.ones(2).as_subclass(_Elsewhere), "a _Elsewhere .*NotImplementedError"),
    ],
    ids=["lock", "inside", "ufunc", "eval", "modules", "sparse", "elsewhere"],
)
def test_what_cannot_be_hashed_is_refused(value, words):
    with pytest.raises(ConfigError, match=words):
        digest(value)


def _reached_by_its_element() -> Any:
    namespace: dict[str, Any] = {"__name__": __name__}
    exec("R = set()\nclass A:\n    def g(self): return R\nR.add(A)\ndef h(x): return R\n", namespace)
    return namespace["h"]


def test_what_is_nested_too_deeply_is_refused():
    deep: list[Any] = []
    for _ in range(3000):
        deep = [deep]
    net = nn.Sequential(nn.ReLU())
    net.deep = deep
    for call in (lambda: digest(deep), lambda: digest(_reached_by_its_element()), lambda: network_digest(net)):
        with pytest.raises(ConfigError, match=r"cannot be part of a content key \(it is nested too deeply, or") as told:
            call()
        assert len(str(told.value)) < 500


def test_a_member_of_a_class_that_cannot_be_hashed_refuses_the_cache_alone(tmp_path):
    class Locked(nn.Module):
        LOCK = threading.Lock()

        def forward(self, x: Any) -> Any:
            LOG.debug("a logger changes nothing")
            return x

    with pytest.raises(ConfigError, match=r"Locked\.LOCK.*record without out= and cache="):
        _runs(nn.Sequential(Locked()), tmp_path, "0")
    assert fn.record(nn.Sequential(Locked()), images(), "0").sizes["stimulus"] == 3
    assert digest(Colour.RED) == digest(Colour.RED)
