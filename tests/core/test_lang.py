"""Messages in two languages: every one has its translation, and every translation is used."""

from __future__ import annotations

import ast
import gettext
import importlib
import inspect
import json
import os
import pickle
import re
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import pytest
import yaml

from aloha_kit.config.policies import ActConfig
from aloha_kit.convert.args import ConvertArgs
from aloha_kit.core import AlohaKitError, cli, flags, lang, plural
from aloha_kit.core.lang import Message
from aloha_kit.core.own_code import WorkerFailure
from aloha_kit.data import args as data
from aloha_kit.deploy.args import DeployArgs, ServeArgs
from aloha_kit.diagnose.args import DiagnoseArgs
from aloha_kit.doctor.args import DoctorArgs
from aloha_kit.episode import args as episode
from aloha_kit.eval.args import EvalArgs
from aloha_kit.policies import args as policies
from aloha_kit.record.args import RecordArgs
from aloha_kit.replay.args import ReplayArgs
from aloha_kit.report.args import ReportArgs
from aloha_kit.reproduce.args import ReproduceArgs
from aloha_kit.rl import args as rl
from aloha_kit.sweep.args import SweepArgs
from aloha_kit.teleop.args import TeleopArgs
from aloha_kit.train.args import TrainArgs

PACKAGE = Path(lang.__file__).parents[1]
LOCALE = PACKAGE / "core" / "locale"
WHOLE_HELP = (RecordArgs, DeployArgs, ServeArgs, DoctorArgs)
"""Commands whose `--help-all` is translated; of all others, `--help` is."""
SUBCOMMANDS = (
    ServeArgs,
    *flags.commands(episode.Command).values(),
    policies.Info,
    policies.Export,
    data.Fetch,
    data.Ls,
    *flags.commands(rl.Command).values(),
)
COMMANDS = (
    *(*WHOLE_HELP, *SUBCOMMANDS, TrainArgs[ActConfig], EvalArgs, ReplayArgs, DiagnoseArgs),
    *(TeleopArgs, ReproduceArgs, SweepArgs, ReportArgs, ConvertArgs),
)

TRANSLATED = {"tr", "marked", "Message"} | {
    node.name
    for file in PACKAGE.rglob("*.py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body
    if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
}
"""Functions and errors whose first argument is a text to translate."""


def messages() -> Iterator[tuple[str, ...]]:
    """What the code marks: (text,), or (one, many)."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(text)), *_]) if name in TRANSLATED:
                    yield (text,)
                case ast.Call(func=ast.Name(id="tr_plural"), args=[ast.Constant(one), ast.Constant(many), *_]):
                    yield (one, many)
                case ast.Call(func=ast.Name(id="plural" | "Count"), args=[_, ast.Constant(value=str(thing))]):
                    yield (f"{{n}} {thing}", f"{{n}} {thing}s")
                case ast.Call(func=ast.Name(id="About"), args=[ast.Constant(check), _]) if file.parent.stem in {
                    "doctor",
                    "train",
                }:
                    yield (check,)


def help_texts() -> Iterator[tuple[str, ...]]:
    """The texts of the translated `--help`."""
    for kind in COMMANDS:
        cls: Any = get_origin(kind) or kind
        doc, every = inspect.getdoc(cls) or "", flags.flags(kind)
        yield from ((flags._plain(text),) for text in doc.split("\n\n"))
        if kind in SUBCOMMANDS:
            yield (flags._first_sentence(flags._plain(doc)),)
        whole = kind in WHOLE_HELP or len(every) <= flags.SHORT
        shown = [each for each in every if whole or each.required or each.name.removeprefix("--") in cls.MAIN_FLAGS]
        for flag in shown:
            yield from ((text,) for text in (flags._plain(flag.text), flag.group.rstrip(".") if whole else "") if text)


def preset_texts() -> Iterator[tuple[str, ...]]:
    """What presets say of published results, which tables show."""
    for file in sorted((PACKAGE.parent / "configs/reproduce").glob("*.yaml")):
        preset = yaml.safe_load(file.read_text(encoding="utf-8"))
        for part in (preset, *preset.get("tasks", {}).values()):
            if part.get("published"):
                yield (part["published"],)


def catalogue() -> dict[tuple[str, ...], str]:
    """{msgid and plural: msgstr} of the source of the Chinese catalogue."""
    text = (LOCALE / "zh.po").read_text(encoding="utf-8")
    quoted = r'((?:".*"\n)+)'
    entries = re.findall(rf"^msgid {quoted}(?:msgid_plural {quoted})?msgstr(?:\[0\])? {quoted}", text, re.MULTILINE)
    assert len(entries) == len(re.findall("^msgid ", text, re.MULTILINE))
    joined = [["".join(map(ast.literal_eval, part.splitlines())) for part in entry] for entry in entries]
    return {tuple(key for key in (one, many) if key): chinese for one, many, chinese in joined if one}


def fields(text: str) -> list[str]:
    return sorted({name for _, name, _, _ in string.Formatter().parse(text) if name is not None})


def test_every_message_has_a_translation_and_every_translation_a_message() -> None:
    requested, there = {*messages(), *help_texts(), *preset_texts()}, catalogue()
    assert sorted(requested - there.keys()) == []
    assert sorted(there.keys() - requested) == []
    assert [key for key, chinese in there.items() if not chinese] == []


def test_a_translation_has_the_fields_of_its_message() -> None:
    helped = set(help_texts())
    wrong = [key for key, chinese in catalogue().items() if key not in helped and fields(chinese) != fields(key[-1])]
    assert wrong == []


def test_the_compiled_catalogue_is_current() -> None:
    with (LOCALE / "zh.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for key, chinese in catalogue().items():
        found = compiled.gettext(key[0]) if len(key) == 1 else compiled.ngettext(*key, 2)
        assert found == chinese, "msgfmt -c -o zh.mo zh.po, in aloha_kit/core/locale"


def test_the_fields_of_a_message_are_given() -> None:
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(text))], keywords=given) if (
                    name in TRANSLATED - {"marked"}
                ):
                    wrong += [text] if fields(text) != sorted(str(keyword.arg) for keyword in given) else []
                case ast.Call(
                    func=ast.Name(id="tr_plural"), args=[_, ast.Constant(value=str(text)), _], keywords=given
                ):
                    wrong += [text] if fields(text) != sorted(["n", *(str(each.arg) for each in given)]) else []
    assert wrong == []


def test_the_text_of_an_error_is_a_template_with_fields() -> None:
    formatted = [
        f"{file}:{node.lineno}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TRANSLATED
        if any(isinstance(part, ast.JoinedStr) for text in node.args[:1] for part in ast.walk(text))
    ]
    assert formatted == []  # the text of an f-string has no translation


@pytest.mark.parametrize(
    ("environ", "encoding", "expected"),
    [
        ({}, "utf-8", "en"),
        ({"LANG": "C"}, "utf-8", "en"),
        ({"LANG": "C.UTF-8"}, "utf-8", "en"),
        ({"LANG": "de_DE.UTF-8"}, "utf-8", "en"),
        ({"LANG": "zh_CN.UTF-8"}, "utf-8", "zh"),
        ({"LANG": "zh_TW"}, "utf-8", "zh"),
        ({"LANG": "zh_CN.GB2312"}, "gb2312", "zh"),
        ({"LANG": "zh_CN.UTF-8"}, "ascii", "en"),
        ({"LANG": "zh_CN.UTF-8"}, "no such encoding", "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, "utf-8", "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_US.UTF-8", "LC_ALL": "zh_CN.UTF-8"}, "utf-8", "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, "utf-8", "zh"),
    ],
)
def test_the_language_of_a_locale(environ: dict[str, str], encoding: str, expected: str) -> None:
    assert lang.locale_language(environ, encoding) == expected


def test_the_flag_comes_before_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.setenv(name, "zh_CN.UTF-8")
    assert lang.chosen_language(["--task", "x"]) == "zh"
    assert lang.chosen_language(["--task", "x", "--lang", "en"]) == "en"
    assert lang.chosen_language(["--lang=en", "--task", "x"]) == "en"
    monkeypatch.setenv("LC_ALL", "C")
    assert lang.chosen_language(["--lang", "zh"]) == "zh"
    assert lang.chosen_language(["--lang"]) == "en"
    assert lang.chosen_language([]) == "en"


def test_a_message_of_another_process_is_translated() -> None:
    failure = WorkerFailure.of(AlohaKitError(Message("{flag} is missing: {text}", flag="--x", text=KeyError("y"))))
    sent: tuple[Message, Message, WorkerFailure] = pickle.loads(
        pickle.dumps((plural(2, "episode"), lang.joined([Message("required"), "x"]), failure))
    )
    count, several, failed = sent
    assert (count, several, failed.text) == ("2 episodes", "required; x", "--x is missing: 'y'")
    with lang.language("zh"):
        assert lang.shown(count) == "2 条轨迹"
        assert lang.shown(several) == "必填；x"
        assert lang.shown(AlohaKitError(failed.text)) == "缺少 --x：'y'"


def test_a_message_is_english_in_files_and_chinese_for_people() -> None:
    message = Message("no flag {name}", name="--x")  # of no catalogue
    assert message == "no flag --x"
    assert lang.shown(message) == "no flag --x"
    assert [lang.shown(plural(n, "episode")) for n in (1, 2)] == ["1 episode", "2 episodes"]
    known = Message("{n} more flags: {program} --help-all", n=3, program=Message("required"))
    assert known == "3 more flags: required --help-all"
    with lang.language("zh"):
        assert lang.shown(known) == "另有 3 个参数：必填 --help-all"
        assert lang.shown(AlohaKitError(known)) == "另有 3 个参数：必填 --help-all"
        assert lang.shown(AlohaKitError("as it is")) == "as it is"
        assert lang.shown(Message("{flags}:", flags=plural(2, "episode"))) == "2 条轨迹："
        assert lang.tr("{flags}:", flags=plural(2, "episode")) == "2 条轨迹："
        assert lang.tr("{flags}:", flags=AlohaKitError(known)) == "另有 3 个参数：必填 --help-all："
        assert lang.shown(lang.joined(["as {it} is", Message("required")])) == "as {it} is；必填"
        assert lang.tr("") == ""
        with lang.language("en"):
            assert lang.tr("required") == "required"
    assert lang.tr("required") == "required"


def test_columns_of_a_terminal() -> None:
    assert lang.width("abc") == 3
    assert lang.width("夹爪 ok，") == 2 + 2 + 3 + 2
    assert lang.width("±3°") == 3
    assert lang.cut("夹爪ab", 6) == "夹爪ab"
    assert lang.cut("夹爪ab", 5) == "夹爪a"
    assert lang.cut("夹爪ab", 3) == "夹"
    assert lang.cut("夹" * 100, 41) == "夹" * 20
    assert lang.pad("夹爪", 6) == "夹爪  "
    assert lang.wrap("one two-three four", 9) == ["one", "two-three", "four"]
    lines = lang.wrap("从臂没有跟随主臂，请检查 --rig 给出的配置文件。", 16)
    assert lines == ["从臂没有跟随主", "臂，请检查 --rig", "给出的配置文件。"]
    assert lang.wrap("夹爪（未合上）", 6) == ["夹爪", "（未合", "上）"]
    assert lang.wrap("从臂没有跟随。", 12) == ["从臂没有跟", "随。"]  # no mark at a line's begin


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    cleared = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))}
    environment = {**cleared, "PYTHONPATH": str(PACKAGE.parent), "COLUMNS": "80", **environ}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)


def test_the_help_of_recording_in_chinese() -> None:
    done = run("aloha_kit.record", "--lang", "zh", "--help")
    text = done.stdout.decode()
    assert done.returncode == 0
    assert text.startswith("用法：python -m aloha_kit.record --task TEXT [参数]\n")
    assert "示例：\n  python -m aloha_kit.record --task sim_transfer_cube --num_episodes 50\n" in text
    assert max(map(lang.width, text.splitlines())) <= 80
    by_locale = run("aloha_kit.record", "--help", LANG="zh_CN.UTF-8")
    assert by_locale.stdout == done.stdout


@pytest.mark.parametrize(
    ("command", "described"),
    [
        ("train", "用录制的轨迹训练策略。"),
        ("eval", "在仿真中测量已训练策略的成功率"),
        ("episode label", "设置录制轨迹的成败"),
    ],
)
def test_the_short_help_of_other_commands_in_chinese(command: str, described: str) -> None:
    text = run(*f"aloha_kit.{command} --lang zh --help".split()).stdout.decode()
    assert text.startswith(f"用法：python -m aloha_kit.{command} ")
    assert described in text
    prose = [line for line in text.splitlines() if not lang.width(line) > len(line) and line.count(" ") > 8]
    assert [line for line in prose if "python -m" not in line and "--" not in line] == []


@pytest.mark.parametrize("environ", [{"LANG": "C"}, {"LANG": "C.UTF-8"}], ids=str)
def test_help_is_english_elsewhere(environ: dict[str, str]) -> None:
    done = run("aloha_kit.doctor", "--help", **environ)
    assert done.stdout.decode().startswith("usage: python -m aloha_kit.doctor [flags]\n")
    assert done.stdout.decode().isascii()


def test_a_terminal_without_chinese_characters() -> None:
    ascii_only = run("aloha_kit.doctor", "--lang", "zh", "--help", PYTHONIOENCODING="ascii")
    assert ascii_only.returncode == 0
    assert ascii_only.stdout.startswith(rb"\u7528\u6cd5")
    older = run("aloha_kit.doctor", "--help", LANG="zh_CN.GB2312", PYTHONIOENCODING="gb2312")
    assert older.stdout.decode("gb2312").startswith("用法：")


def test_the_doctor_without_a_rig_in_chinese() -> None:
    none = {"ROS_MASTER_URI": "http://127.0.0.1:9", "LANG": "zh_CN.UTF-8"}
    done = run("aloha_kit.doctor", "--task", "aloha_transfer_cube", **none)
    text = done.stdout.decode()
    assert done.returncode == 1
    assert text.startswith("错误     ros  网络：")
    assert f"\n{' ' * 14}期望：有一个 master\n" in text
    assert text.endswith("\nNO-GO：机器人 'aloha'，任务 'aloha_transfer_cube'：1 个错误，0 个警告\n")
    read_by_programs = run("aloha_kit.doctor", "--task", "aloha_transfer_cube", "--json", **none)
    (finding,) = json.loads(read_by_programs.stdout)["findings"]
    assert finding["check"] == "network"
    assert finding["expected"] == "a master"


def test_an_unknown_language_is_refused_with_what_exists() -> None:
    with pytest.raises(cli.UsageError, match=r"--lang takes {en,zh}, given fr"):
        importlib.import_module("aloha_kit.doctor.args").parse(["--lang", "fr"])


def test_values_that_a_dataclass_refuses_are_reported_in_chinese() -> None:
    parse = importlib.import_module("aloha_kit.episode.args").parse
    with (
        lang.language("zh"),
        pytest.raises(cli.UsageError, match=r"^没有要去掉的内容；请给出 --start、--stop 或 --still；见"),
    ):
        parse(["trim", "data", "0"])
