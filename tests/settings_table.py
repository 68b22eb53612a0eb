"""The tables of all settings, made from the code: in docs/settings.md and in both READMEs.

    tables.py, sources.py          ──▶ setting, variable, default
    config/teleprinter.toml        ──▶ what a setting means, in English
    config/env.example             ──▶ what a variable means, in English
    tests/settings.zh-CN.toml      ──▶ both in Chinese

python tests/settings_table.py     writes them; test_settings_table.py fails when one is out of date
"""

import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from service.core.secret import Secret
from service.draft import LISTS, TABLES
from service.sources import VARIABLES

ROOT = Path(__file__).parents[1]
CHINESE = Path(__file__).with_name("settings.zh-CN.toml")
MARK = re.compile(r"(<!-- settings -->\n).*?(<!-- /settings -->)", re.DOTALL)
"""Where a README has the variables' table."""

Meanings = dict[str, str]
"""What each means: `server.host`, `[server]` for the table itself, `TELEPRINTER_HOST`."""


class Language(NamedTuple):
    """The words of a language, and where what they make goes."""

    readme: Path
    page: Path
    head: str
    by_variable: str
    by_table: str
    nothing: str
    stop: str


ENGLISH = Language(
    ROOT / "README.md",
    ROOT / "docs" / "settings.md",
    """# Settings

[中文](settings.zh-CN.md) · [README](../README.md#settings)

First wins: command line, environment, `.env` in the working directory, `$CREDENTIALS_DIRECTORY`,
the TOML file (`--config FILE`, else `./teleprinter.toml`, else
`/etc/teleprinter/teleprinter.toml`), the defaults below. `${NAME}` in a text of the file is taken
from the environment, `.env` or the credentials, `${NAME:-default}` has a default, `$${` is a plain
`${`. An unknown key or a value that cannot be is an error with its place and what was expected:
`teleprinter check` tells.

[config/teleprinter.toml](../config/teleprinter.toml) and
[config/env.example](../config/env.example) are the same as files to copy. This page is made by
`python tests/settings_table.py`.
""",
    "| variable | setting | default | meaning |",
    "| setting | variable | default | meaning |",
    "–",
    ".",
)
CHINESE_WORDS = Language(
    ROOT / "README.zh-CN.md",
    ROOT / "docs" / "settings.zh-CN.md",
    """# 设置

[English](settings.md) · [README](../README.zh-CN.md#设置)

优先级从高到低：命令行、环境变量、工作目录下的 `.env`、`$CREDENTIALS_DIRECTORY`、TOML 文件\
（`--config FILE`，否则 `./teleprinter.toml`，再否则 `/etc/teleprinter/teleprinter.toml`）、\
下表的默认值。文件中的 `${NAME}` 依次取自环境变量、`.env` 和凭据目录，`${NAME:-默认值}` 带默认值，\
`$${` 表示字面的 `${`。未知的键或不合法的值都会报错，并指出位置和期望的内容：\
运行 `teleprinter check` 即可看到。

[config/teleprinter.toml](../config/teleprinter.toml) 和
[config/env.example](../config/env.example) 是同样内容的可复制文件。\
本页由 `python tests/settings_table.py` 生成。
""",
    "| 变量 | 设置 | 默认值 | 含义 |",
    "| 设置 | 变量 | 默认值 | 含义 |",
    "–",
    "。",
)


def main() -> None:
    """Write the pages and the READMEs' tables."""
    for words, meanings in (ENGLISH, english()), (CHINESE_WORDS, chinese()):
        words.page.write_text(page(words, meanings), encoding="utf-8")
        text = words.readme.read_text(encoding="utf-8")
        words.readme.write_text(in_readme(text, words, meanings), encoding="utf-8")


def page(words: Language, meanings: Meanings) -> str:
    """Return the page of all settings."""
    return "".join([words.head, *_parts(words, meanings)])


def in_readme(text: str, words: Language, meanings: Meanings) -> str:
    """Return a README with its table of variables made anew."""
    table = variables(words, meanings)
    return MARK.sub(lambda found: f"{found[1]}{table}{found[2]}", text)


def variables(words: Language, meanings: Meanings) -> str:
    """Return the table of the environment's variables."""
    rows = [
        [f"`{name}`", f"`{_plain(path)}`", _default(_plain(path), words), meanings[name]]
        for name, path in VARIABLES.items()
    ]
    return _table(words.by_variable, rows)


def keys() -> list[str]:
    """Return the paths of all settings, in the order of the file: `server.host`, …."""
    tables = (TABLES | LISTS).items()
    return [f"{name}.{key}" for name, kind in tables for key in kind.__struct_fields__]


def _parts(words: Language, meanings: Meanings) -> Iterator[str]:
    for name in TABLES | LISTS:
        title = f"[[{name}]]" if name in LISTS else f"[{name}]"
        note = meanings.get(title)
        said = f"{note[0].upper()}{note[1:]}{words.stop}\n\n" if note else ""
        yield f"\n## `{title}`\n\n{said}"
        rows = [_row(path, words, meanings) for path in keys() if path.split(".")[0] == name]
        yield _table(words.by_table, rows)


def _row(path: str, words: Language, meanings: Meanings) -> list[str]:
    given = [f"`{name}`" for name, at in VARIABLES.items() if _plain(at) == path]
    shown = f"`{path.split('.')[1]}`"
    return [shown, *(given or [words.nothing]), _default(path, words), meanings[path]]


def _plain(path: str) -> str:
    return path.replace("[0]", "")


def _default(path: str, words: Language) -> str:
    """Return the code's default as TOML; nothing for none."""
    table, key = path.split(".")
    fields = msgspec.structs.fields((TABLES | LISTS)[table])
    field = next(each for each in fields if each.name == key)
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory
    if value is msgspec.NODEFAULT or value is None:
        return words.nothing
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, Secret):
        return '""'
    if callable(value):
        return _toml(value())
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _table(head: str, rows: Iterable[list[str]]) -> str:
    cells = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join([head, "|---|---|---|---|", *(f"| {row} |" for row in cells)]) + "\n"


# --- what they mean


def english() -> Meanings:
    """Read the comments of config/teleprinter.toml and of config/env.example."""
    return _of_the_file() | _of_the_variables()


def chinese() -> Meanings:
    """Read the Chinese words."""
    found = tomllib.loads(CHINESE.read_text(encoding="utf-8"))
    titles = found.pop("titles")
    return titles | {
        name if table == "variables" else f"{table}.{name}": text
        for table, rows in found.items()
        for name, text in rows.items()
    }


def _of_the_file() -> Meanings:
    """Read the comments beside the keys, those that go on below them joined."""
    found: dict[str, list[str]] = {}
    table, path = "", ""
    for raw in (ROOT / "config/teleprinter.toml").read_text(encoding="utf-8").splitlines():
        line = raw.removeprefix("# ") if table in LISTS or raw.startswith("# [") else raw
        comment = re.search(r"\s# (.*)$", line)
        if title := re.match(r"(\[+(\w+)\]+)", line):
            table, path = title[2], title[1]
        elif key := re.match(r"(?:# )?(\w+) = ", line):
            path = f"{table}.{key[1]}"
        if comment and table:
            found.setdefault(path, []).append(_coded(comment[1].strip()))
    return {path: " ".join(parts) for path, parts in found.items()}


def _of_the_variables() -> Meanings:
    """Read the comments above the variables."""
    text = (ROOT / "config/env.example").read_text(encoding="utf-8")
    found: Meanings = {}
    for block in text.split("\n\n")[1:]:
        lines = block.splitlines()
        named = [re.match(r"(?:# )?(TELEPRINTER_\w+)=", line) for line in lines]
        said = [
            line.removeprefix("# ") for line, name in zip(lines, named, strict=True) if not name
        ]
        meaning = _coded(" ".join(said).rstrip("."))
        found |= {name[1]: meaning for name in named if name}
    return found


def _coded(text: str) -> str:
    """Keep Markdown from reading what stands for itself."""
    return text.replace("*", "\\*").replace("[[", "\\[\\[").replace("<", "&lt;")


if __name__ == "__main__":
    main()
