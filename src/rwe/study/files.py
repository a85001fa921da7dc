"""Study files and code lists: read, validated, and told what is wrong with them in a sentence."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rwe.codes import Code, InvalidCodeError
from rwe.errors import StudyError
from rwe.near import fields_at, nearest, value_at
from rwe.study.parts import Covariate, Criterion, Outcome
from rwe.study.possible import never_runs
from rwe.study.protocol import Protocol
from rwe.yaml_text import YamlMistakeError, read_yaml


@dataclass(frozen=True)
class Codelist:
    """A named list of codes, as its CSV file says."""

    name: str
    codes: tuple[Code, ...]


@dataclass(frozen=True)
class Study:
    """A protocol with its code lists. `protocol_sha256` covers both: a changed code is a changed protocol."""

    protocol: Protocol
    codelists: dict[str, Codelist]
    path: Path

    @property
    def name(self) -> str:
        return self.protocol.name

    def content(self) -> dict[str, Any]:
        """The protocol with its code lists, as JSON: what `protocol_sha256` is the hash of."""
        return {
            "protocol": _asked(self.protocol),
            "codelists": {n: [_code_row(c) for c in cl.codes] for n, cl in sorted(self.codelists.items())},
        }

    @property
    def protocol_sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()

    def codes(self, codelist: str) -> tuple[Code, ...]:
        return self.codelists[codelist].codes


def _asked(protocol: Protocol) -> dict[str, Any]:
    """The protocol as plain values. What came to the format later is in it only where it is made use of, so
    that a study that asks the same keeps its hash."""
    content = protocol.model_dump(mode="json")
    for name in (
        "toxicities",
        "cart_copies",
        "subgroups",
        "chart_review",
        "sensitivity_grid",
        "negative_controls",
    ):
        if not content[name]:
            del content[name]
    for analysis, asked in zip(protocol.analyses, content["analyses"], strict=True):
        for name in analysis.later_options():
            del asked[name]
    if protocol.outcome.death_sources == Outcome().death_sources:
        del content["outcome"]["death_sources"]
    for toxicity in content.get("toxicities", []):
        if not toxicity["from_day"]:
            del toxicity["from_day"]
    for event in content["intercurrent_events"]:
        if not event["weighted_for"]:
            del event["weighted_for"]
    for part in (*content["eligibility"], *content["covariates"]):
        for name, unused in (("plausible", None), ("over_time", False), ("before_first", None)):
            if name in part and part[name] is unused:
                del part[name]
    return content


def _code_row(code: Code) -> dict[str, str | bool | None]:
    return {
        "system": code.system,
        "code": code.code,
        "is_prefix": code.is_prefix,
        "display": code.display,
        "source": code.source,
        "valid_from": code.valid_from.isoformat() if code.valid_from else None,
        "valid_to": code.valid_to.isoformat() if code.valid_to else None,
    }


CODELIST_COLUMNS = ("system", "code", "display", "source", "valid_from", "valid_to")


def load_codelist(name: str, path: Path) -> Codelist:
    """Read `NAME.csv`. Raises StudyError naming the file and line of the first mistake."""
    if not path.is_file():
        near = nearest(name, [p.stem for p in path.parent.glob("*.csv")])
        hint = f"did you mean {near}" if near else "write it there"
        raise StudyError(f"code list {name!r} is missing", where=str(path), advice=hint)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise StudyError("the code list is not readable as UTF-8 text", where=str(path)) from e
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if tuple(rows.fieldnames or ()) != CODELIST_COLUMNS:
        raise StudyError(
            "the header is not the one of a code list",
            where=str(path),
            advice=f"make its first line {','.join(CODELIST_COLUMNS)}",
        )
    codes: list[Code] = []
    for row in rows:
        line = f"{path}, line {rows.line_num}"
        if None in row or None in row.values():
            raise StudyError(
                f"not {len(CODELIST_COLUMNS)} columns", where=line, advice="quote commas in texts"
            )
        try:
            codes.append(
                Code(
                    system=row["system"].strip(),
                    code=row["code"].strip().removesuffix("*"),
                    display=row["display"].strip(),
                    source=row["source"].strip(),
                    valid_from=date.fromisoformat(row["valid_from"]) if row["valid_from"].strip() else None,
                    valid_to=date.fromisoformat(row["valid_to"]) if row["valid_to"].strip() else None,
                    is_prefix=row["code"].strip().endswith("*"),
                )
            )
        except InvalidCodeError as e:
            raise StudyError(str(e), where=line, advice="correct the code or its system") from e
        except ValueError as e:
            raise StudyError(
                "valid_from or valid_to is no date", where=line, advice="write YYYY-MM-DD"
            ) from e
    for code, times in Counter(codes).items():
        if times > 1:
            raise StudyError(f"the code {code.code} stands twice", where=str(path), advice="remove one")
    if not codes:
        raise StudyError("the code list has no code", where=str(path), advice="add at least one line")
    return Codelist(name, tuple(codes))


def load_study(path: Path) -> Study:
    """Read a study file and, from `codelists/` beside it, every code list it names.

    Raises StudyError: what is wrong, in which field or line, and how to mend it.
    """
    if not path.is_file():
        raise StudyError(
            "there is no such study file", where=str(path), advice="see `rwe study check --help`"
        )
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except YamlMistakeError as e:
        raise StudyError(str(e), where=str(path), advice="correct it there") from None
    except (OSError, UnicodeDecodeError) as e:
        raise StudyError("the file is not readable as UTF-8 text", where=str(path)) from e
    if not isinstance(content, dict):
        raise StudyError(
            "the file holds no mapping of fields", where=str(path), advice="see `rwe study schema`"
        )
    try:
        protocol = Protocol.model_validate(content)
    except ValidationError as e:
        raise StudyError(_first_mistake(e, content), where=str(path), advice=_remedy(e, content)) from e
    _require_an_answer(protocol, path)
    folder = path.parent / "codelists"
    lists = {name: load_codelist(name, folder / f"{name}.csv") for name in protocol.codelist_names()}
    return Study(protocol, lists, path)


def _require_an_answer(protocol: Protocol, path: Path) -> None:
    """Raises StudyError where the primary analysis would be refused with any data.

    Here and not in `Protocol`, so that evidence of such a study can still be read.
    """
    for i, a in enumerate(protocol.analyses, start=1):
        found = never_runs(protocol, a) if a.role == "primary" else None
        if found is not None:
            what = f"analyses #{i} is primary, and {a.analysis} can never run: {found.what}"
            raise StudyError(what, where=str(path), advice=found.advice)


def load_studies(folder: Path) -> list[Study]:
    """Every study of a folder, in the order of the file names. Two of one name are a StudyError."""
    studies = [load_study(path) for path in sorted(folder.glob("*.yaml"))]
    names = [study.name for study in studies]
    for study in studies:
        if names.count(study.name) > 1:
            files = " and ".join(s.path.name for s in studies if s.name == study.name)
            raise StudyError(
                f"{files} name their study {study.name!r} both", where=str(folder), advice="change one name:"
            )
        _require_its_name(study)
    return studies


def load_named_study(path: Path) -> Study:
    """Read a study file that is called as its study, as the file's lock and its evidence are.

    Raises StudyError as `load_study`, and where the file has another name.
    """
    study = load_study(path)
    _require_its_name(study)
    return study


def _require_its_name(study: Study) -> None:
    if study.path.stem != study.name:
        raise StudyError(
            f"the file is called {study.path.name}, its study {study.name}",
            where=str(study.path),
            advice=f"call the file {study.name}.yaml, or change its field name",
        )


def is_study_path(name_or_path: str) -> bool:
    """Whether this names a file rather than a study of the workspace."""
    path = Path(name_or_path).expanduser()
    return path.suffix in {".yaml", ".yml"} or path.is_file()


def find_study(name_or_path: str, folder: Path) -> Study:
    """A study by the path of its file, or by the name it has among the studies of `folder`.

    A file elsewhere may be a copy of the study that has its name in `folder`, or a link to it: that one is
    returned, with its lock. Raises StudyError where it is another protocol, or where the two locks differ:
    evidence and lock are kept by name, so the one would take the other's place.
    """
    if is_study_path(name_or_path):
        return _the_only_one(load_named_study(Path(name_or_path).expanduser()), folder)
    candidate = folder / f"{name_or_path}.yaml"
    if not candidate.is_file():
        names = sorted(p.stem for p in folder.glob("*.yaml"))
        near = nearest(name_or_path, names)
        raise StudyError(
            f"there is no study {name_or_path!r}",
            where=str(folder),
            advice=f"did you mean {near}" if near else f"there are: {', '.join(names) or 'none'}",
        )
    return load_named_study(candidate)


def _the_only_one(study: Study, folder: Path) -> Study:
    """The study itself, or the same of `folder`. Raises StudyError as `find_study`."""
    kept = folder / f"{study.name}.yaml"
    own_lock, kept_lock = lock_file(study.path), lock_file(kept)
    same = load_named_study(kept) if kept.is_file() else None
    if same is not None and same.protocol_sha256 != study.protocol_sha256:
        raise StudyError(
            f"the workspace has another protocol of the name {study.name}, and its evidence",
            where=str(study.path),
            advice=f"give this one another name, or copy it and its code lists over {kept}",
        )
    if own_lock.is_file() and not (kept_lock.is_file() and kept_lock.read_bytes() == own_lock.read_bytes()):
        if kept_lock.is_file() or same is not None:
            raise StudyError(
                f"the lock beside this file is not the one that the workspace has of {study.name}",
                where=str(own_lock),
                advice=f"keep one of them, as {kept_lock}",
            )
    elif kept_lock.is_file() and same is None:
        raise StudyError(
            f"the workspace holds a lock of {study.name}, and not its study file",
            where=str(kept_lock),
            advice=f"copy the study file to {kept}",
        )
    return study if same is None else same


def lock_file(path: Path) -> Path:
    """Where the lock of a study file lies: beside it."""
    return path.with_suffix(".lock.json")


def _location(parts: Sequence[int | str]) -> str:
    """A place as in `analyses #20.ties`: entries of lists count from 1, as `--analysis` does."""
    kinds = {k for union in (Criterion, Covariate) for k in _union_kinds(union)}
    if tuple(parts[:1]) == ("sensitivity_grid",):  # after the entry's number comes its rule
        parts = (*parts[:2], *parts[3:])
    shown = [f" #{p + 1}" if isinstance(p, int) else f".{p}" for p in parts if p not in kinds]
    return "".join(shown).lstrip(".")


def _union_kinds(union: Any) -> list[str]:
    members = get_args(get_args(union)[0])
    return [k for m in members for k in get_args(m.model_fields["kind"].annotation)]


def _first(error: ValidationError) -> ErrorDetails:
    return error.errors(include_url=False, include_input=False)[0]


def _first_mistake(error: ValidationError, content: dict[str, Any]) -> str:
    first, rest = _first(error), error.error_count() - 1
    place = _location(first["loc"])
    more = f" (and {rest} more)" if rest else ""
    if first["type"] == "extra_forbidden":
        return f"unknown field {place}{more}"
    if first["type"] == "missing":
        return f"the field {place} is missing{more}"
    asked, near = _choice(first, content)
    if near:
        return f"{place}: there is no {asked!r}{more}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}{more}" if place else f"{message}{more}"


def _remedy(error: ValidationError, content: dict[str, Any]) -> str:
    first = _first(error)
    _, near = _choice(first, content)
    if first["type"] == "extra_forbidden":
        *parents, name = first["loc"]
        near = nearest(str(name), {*fields_at(Protocol, parents)} - _keys(value_at(content, parents)))
    return f"did you mean {near}" if near else "`rwe study schema` lists every field"


def _keys(content: object) -> set[object]:
    return {*content} if isinstance(content, dict) else set()


def _choice(first: ErrorDetails, content: dict[str, Any]) -> tuple[str | None, str | None]:
    """What stands where only some names may, such as an analysis, and the nearest of those; else None."""
    told = first.get("ctx", {})
    if first["type"] == "union_tag_invalid":
        asked, choices = told.get("tag"), str(told.get("expected_tags"))
    elif first["type"] == "literal_error":
        asked, choices = value_at(content, first["loc"]), str(told.get("expected"))
    else:
        return None, None
    if not isinstance(asked, str):
        return None, None
    return asked, nearest(asked, re.findall(r"'([^']*)'", choices))


def study_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a study file."""
    schema = Protocol.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "rwe study protocol"
    return schema
