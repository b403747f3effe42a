"""Identity of models: another for whatever changes their outputs, and the same in every process."""

import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from worlds.decision_models import CPU, network, noise, opened

from blobex.config.data import ImageSize
from blobex.decisions.identity import identify
from blobex.decisions.load import load
from blobex.decisions.source import from_callable

SIZE = ImageSize(32, 1)


def identity(model):
    decision = opened(model) if isinstance(model, str) else load(model, SIZE, CPU, Path(), "rect")
    return identify(decision, SIZE, CPU)


def content(model):
    found = identity(model)
    assert found.content is not None and not found.unknown
    return found.content


SOURCE = """
import torch
from torch import nn
import users_helper
LIMIT = 3
FACTORS = {"red": 1.0, "green": 2.0}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 2)
        self.temperature = 2.0
    def forward(self, images):
        return self.head(images.mean((2, 3))) / self.temperature
net = Net()
def inner(images):
    return images.mean((2, 3)) * LIMIT
def score(images):
    return inner(images) * FACTORS["green"] + users_helper.shift(images)
def late(images):
    import users_helper
    return images.mean((2, 3)) + users_helper.shift(images)
def through_module(images):
    return net(images)
made = (lambda factor: lambda images: images.mean((2, 3)) * factor)(5.0)
"""
HELPER = "OFFSET = 0.25\ndef shift(images):\n    return images.mean((1, 2, 3))[:, None] + OFFSET\n"
NAMES = ("net", "score", "late", "through_module", "made")


def contents(source=SOURCE, helper=HELPER):
    """The contents of the models in a module of the user's, freshly imported."""
    for name, text in (("users_models", source), ("users_helper", helper)):
        sys.modules.pop(name, None)
        Path(f"{name}.py").write_text(text)
    importlib.invalidate_caches()
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode  # files of equal age and size are not read again
    try:
        return {name: content(f"users_models:{name}") for name in NAMES}
    finally:
        sys.dont_write_bytecode = before


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("* LIMIT", "/ LIMIT", {"score"}),
        ("LIMIT = 3", "LIMIT = 4", {"score"}),
        ('"green": 2.0', '"green": 2.5', {"score"}),
        ("OFFSET = 0.25", "OFFSET = 0.5", {"score", "late"}),
        ("return images.mean((1, 2, 3))", "return images.amax((1, 2, 3))", {"score", "late"}),
        ("/ self.temperature", "* self.temperature", {"net", "through_module"}),
        ("temperature = 2.0", "temperature = 2.5", {"net", "through_module"}),
        ("manual_seed(0)", "manual_seed(1)", {"net", "through_module"}),
        ("(5.0)", "(6.0)", {"made"}),
        ("LIMIT = 3", "\n# three, as before\nLIMIT = 3", set()),
    ],
)
def test_every_change_of_a_users_module_is_seen(old, new, changed):
    before = contents()
    assert len(set(before.values())) == len(NAMES)
    after = contents(SOURCE.replace(old, new), HELPER.replace(old, new))
    assert {name for name in NAMES if before[name] != after[name]} == changed


def test_modules_that_a_function_of_a_package_imports_when_it_runs_are_seen():
    Path("users_package").mkdir()
    Path("users_package/__init__.py").touch()
    Path("users_package/models.py").write_text(
        "def score(images):\n    from .parts import shift\n    return shift(images.mean((2, 3)))\n"
    )
    found = []
    for offset in (0.0, 1e-7, 0.0):  # the second too small to be seen in the answers
        for name in [name for name in sys.modules if name.startswith("users_package")]:
            del sys.modules[name]
        Path("users_package/parts.py").write_text(f"def shift(values):\n    return values + {offset!r}\n")
        importlib.invalidate_caches()
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        found.append(content("users_package.models:score"))
        sys.dont_write_bytecode = before
    assert found[0] == found[2] != found[1]


def test_a_frozen_script_is_known_by_its_constants():
    """It has no parameters, so that the hash of its state is that of nothing."""
    found = []
    for seed in (0, 0, 1):
        with pytest.warns(FutureWarning, match="deprecated"):
            torch.jit.freeze(torch.jit.script(network(seed=seed).eval())).save("frozen.pt")
        found.append(identity("frozen.pt"))
    assert found[0] == found[1]
    assert found[0].content != found[2].content and found[0].answers != found[2].answers


def test_an_exported_program_is_known_by_code_and_weights():
    class Power(nn.Module):
        def __init__(self, exponent):
            super().__init__()
            self.exponent = exponent

        def forward(self, images):
            return (images + 2).mean((2, 3)) ** self.exponent

    def exported(module):
        torch.export.save(torch.export.export(module, (noise(2, 32, 32),)), "model.pt2")
        return content("model.pt2")

    assert exported(Power(2)) == exported(Power(2)) != exported(Power(3))
    assert exported(network(seed=0).eval()) != exported(network(seed=1).eval())


def test_a_module_is_known_by_all_that_its_outputs_depend_on():
    net = network()
    known = [content(net)]
    net[1].running_mean += 1
    known.append(content(net))
    net[5].register_forward_hook(lambda module, inputs, output: output * 2)
    known.append(content(net))
    net[2] = nn.Sigmoid()
    known.append(content(net))
    net.register_buffer("unsaved", torch.ones(2), persistent=False)
    known.append(content(net))
    assert len(set(known)) == len(known)
    modes = content(net.train())
    assert modes == content(net.eval()) == content(net.requires_grad_(False))


@pytest.mark.parametrize("wrap", [torch.no_grad(), functools.lru_cache, functools.wraps(len)])
def test_a_decorated_function_is_known_by_its_body(wrap):
    first, second = (wrap(eval(f"lambda value: value + {number}")) for number in (1, 2))
    known = [content(lambda images, f=f: images.mean((2, 3)) * f(3)) for f in (first, second)]
    assert known[0] != known[1]


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_forms_of_one_model_that_were_tried():
    """Each can be identified, and is the same after it has seen other images."""
    net = network().eval()
    torch.manual_seed(0)
    forms = {
        "function": lambda images: net(images) * 2,
        "method": net.forward,
        "partial": functools.partial(lambda factor, images: net(images) * factor, 2.0),
        "parallel": nn.DataParallel(net),
        "compiled": torch.compile(net, backend="eager"),
        "double": network().double(),
        "torchvision": torchvision.models.resnet18(num_classes=4).eval(),
        "decision": from_callable(net, "classes", "abc"),
    }
    for name, model in forms.items():
        before = content(model)
        decision = load(model, SIZE, CPU, Path(), "rect")
        decision.logits(noise(3, 32, 32))
        assert identify(decision, SIZE, CPU).content == before, name


def test_what_hides_its_content_is_unknown():
    source = (number for number in range(10))
    assert identity(lambda images: images.mean((2, 3)) * (1 if source else 2)).unknown == "builtins.generator"
    assert identity(lambda images: images.mean((2, 3)) * (1 if sys.stdout else 2)).content is not None  # a package's


def test_answers_are_outputs_and_no_answer_is_none():
    def sometimes(images):
        return torch.where(images.mean((1, 2, 3))[:, None] < -0.3, torch.nan, images.mean((2, 3)))

    answers = identity(sometimes).answers
    assert len(answers) == 4 * 3 and answers[:3] == (None,) * 3 and None not in answers[3:]


def test_all_processes_find_the_same_identity():
    """The order of sets, addresses and numbers of hooks differ between them."""
    more = "net.register_forward_hook(lambda *_: None)\nnet.names = set('abcde')\n"
    Path("users_models.py").write_text(SOURCE + more)
    Path("users_helper.py").write_text(HELPER)
    command = (
        "import torch, pathlib\nfrom blobex.config.data import ImageSize\nfrom blobex.decisions.load import load\n"
        "from blobex.decisions.identity import identify\nsize, cpu = ImageSize(32, 1), torch.device('cpu')\n"
        f"for name in {NAMES}:\n"
        "    print(identify(load(f'users_models:{name}', size, cpu, pathlib.Path(), 'rect'), size, cpu))"
    )
    runs = [subprocess.run([sys.executable, "-c", command], capture_output=True, check=True).stdout for _ in range(2)]
    assert runs[0] == runs[1] and runs[0].count(b"content='") == len(NAMES)
