"""A configured name: of a table, of an installed package, or of the user's own module; errors that say what exists."""

import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest

from aloha_kit.core import ConfigError
from aloha_kit.core.own_code import described, own_code_error, WorkerFailure
from aloha_kit.core.plugins import call, known, resolve

TABLE = {"ordered": "collections:OrderedDict", "missing": "no_such_package.module:Name"}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path with one good module and three bad ones."""
    (tmp_path / "own_things.py").write_text(
        "from collections import OrderedDict\nfrom os.path import join\nclass Shelf(dict): pass\nclass Other: pass\n"
        "def build(size, paint=max):\n    return sorted([size, paint])\nNUMBER = 3\n"
    )
    (tmp_path / "own_broken.py").write_text("raise RuntimeError('disk full\\nagain')\n")
    (tmp_path / "own_needs.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    """An installed distribution that declares entry points."""
    info = folder / "shelves-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelves\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(lines)
    monkeypatch.syspath_prepend(str(folder))


def test_a_name_of_the_table() -> None:
    assert resolve("shelves", "ordered", TABLE) is OrderedDict


def test_own_code(own: Path) -> None:
    assert resolve("shelves", "own_things:Shelf", TABLE, base=dict).__name__ == "Shelf"


def test_an_installed_entry_point_and_the_table_before_it(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        own, monkeypatch, "[aloha_kit.shelves]\noak = own_things:Shelf\nordered = own_things:Shelf\n[other]\nx = a:b\n"
    )
    assert resolve("shelves", "oak", TABLE).__name__ == "Shelf"
    assert resolve("shelves", "ordered", TABLE) is OrderedDict
    assert known("shelves", TABLE) == ["missing", "oak", "ordered"]
    assert known("boxes", {}) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "orderd",
            r"no 'orderd' among the shelves\. Did you mean 'ordered'\? Known: missing, ordered\. "
            r"One of your own is given as my_package\.module:Name$",
        ),
        (
            "own_things:Shelv",
            r"module own_things has no 'Shelv'\. Did you mean 'Shelf'\? Known: Other, Shelf, build\.$",
        ),
        ("own_thing:Shelf", r"Python finds no module 'own_thing', neither in "),
        ("own_things.deeper:Shelf", r"Python finds no module 'own_things\.deeper'|not a package"),
        ("own_broken:Shelf", r"importing own_broken failed: RuntimeError: disk full again$"),
        ("own_needs:Shelf", r"importing own_needs failed: No module named 'surely_not_installed'$"),
        ("own_things:NUMBER", r"must be a class or a function, found 3$"),
        ("../own_things:Shelf", r"must read my_package\.module:Name, given '\.\./own_things:Shelf'$"),
        ("own_things:", r"must read my_package\.module:Name"),
        ("missing", r"'missing' of the shelves \(no_such_package\.module:Name\): Python finds no module"),
    ],
)
def test_what_cannot_be_resolved_is_named(own: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        resolve("shelves", name, TABLE)
    assert "\n" not in str(caught.value)


def test_something_else_than_the_class_wanted(own: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be a class derived from dict, found <built-in function len>$"):
        resolve("shelves", "builtins:len", TABLE, base=dict)


def test_only_what_fits_is_suggested(own: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no 'Nope'\. Known: Shelf\.$"):
        resolve("shelves", "own_things:Nope", TABLE, base=dict)


def test_an_exception_of_own_code_is_named_with_its_file_and_line(own: Path) -> None:
    build = resolve("shelves", "own_things:build", TABLE)
    assert call("shelves", "own_things:build", build, {"size": 2}, paint=1) == [1, 2]
    place = r"\(/.*own_things\.py:6\); --log_level debug shows the traceback$"
    with pytest.raises(ConfigError, match=rf"'own_things:build' of the shelves raised TypeError: '<' not .*{place}"):
        call("shelves", "own_things:build", build, {"size": 2})
    with pytest.raises(
        ConfigError, match=r"called with \(size, colour=…\), but takes \(size, paint=<built-in function"
    ):
        call("shelves", "own_things:build", build, {"size": 2}, colour=1)


def test_own_code_in_the_current_folder(own: Path) -> None:
    """As an installed command runs: its `sys.path[0]` is the folder of the command, not the current one."""
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if p]\n"
        "from aloha_kit.core.plugins import resolve\n"
        "print(resolve('shelves', 'own_things:Shelf', {}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=own, capture_output=True, text=True, check=False)
    assert done.stdout == "<class 'own_things.Shelf'>\n", done.stderr


OWN_ARM = """
class Arm:
    def move(self, port):
        return open_port(port)


def open_port(port):
    return {}[port]
"""


def failure(run: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        run()
    return caught.value


def test_an_exception_of_own_code_names_the_class_and_the_line_that_raised_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_arm.py").write_text(OWN_ARM)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = failure(lambda: {}["usb0"])
    arm = resolve("drivers", "own_arm:Arm", {})()
    raised = failure(lambda: arm.move("usb0"))
    line = OWN_ARM.splitlines().index("    return {}[port]") + 1
    assert described(raised) == f"own_arm:Arm.move raised KeyError: 'usb0' ({tmp_path}/own_arm.py:{line})"
    assert str(own_code_error(raised)) == f"{described(raised)}; --log_level debug shows the traceback"
    assert own_code_error(before) is None
    assert described(before) == "KeyError: 'usb0'"
    assert described(ConfigError("no camera")) == "no camera"


def test_a_failure_of_a_worker_process_brings_its_traceback() -> None:
    sent = pickle.loads(pickle.dumps(WorkerFailure.of(failure(lambda: {}["usb0"]))))
    assert sent.text == "KeyError: 'usb0'"
    assert "in failure\n    run()" in str(sent.cause())
