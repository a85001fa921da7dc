"""What somebody else packed may unpack to anything: memory and time stay bounded, what is lost is told."""

from __future__ import annotations

import gzip
import io
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from rwe.config import Workspace, init_workspace
from rwe.errors import UsageError
from rwe.intake import PartlyImportedError, import_folder
from rwe.landing import UNREADABLE, list_runs

PATIENT = b'{"resourceType":"Patient","id":"p1","birthDate":"1950"}'
OBSERVATION = b'{"resourceType":"Observation","id":"o1","valueQuantity":{"value":7.10}}'
MIB = 1 << 20


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "ws", tmp_path / "keys" / "key")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def partly(workspace: Workspace, folder: Path) -> PartlyImportedError:
    with pytest.raises(PartlyImportedError) as caught:
        import_folder(workspace, folder, "a")
    return caught.value


def bomb(suffix: str) -> bytes:
    """Some hundred kilobytes that unpack to one line: 5 GiB (Zstandard), 640 MiB (gzip, ratio 1,029)."""
    if suffix == ".zst":
        return zstandard.compress(bytes(64 * MIB), 19) * 80
    return gzip.compress(b" " * (16 * MIB), 9) * 40


IMPORT_AND_MEASURE = """
import sys
from pathlib import Path
from rwe.config import open_workspace
from rwe.errors import RweError
from rwe.intake import import_folder
try:
    import_folder(open_workspace(Path(sys.argv[1])), Path(sys.argv[2]), "a")
except RweError as e:
    print(e.exit_status, e)
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def import_in_a_process(workspace: Workspace, folder: Path) -> tuple[str, int]:
    """What an import says, and the most memory it held, in MiB."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's /proc to see a process's memory")
    command = [sys.executable, "-c", IMPORT_AND_MEASURE, str(workspace.root), str(folder)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    *text, memory = said.strip().splitlines()
    return "\n".join(text), int(memory) // 1024


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_bomb_fills_no_memory_and_leaves_the_other_files(
    workspace: Workspace, folder: Path, suffix: str
) -> None:
    (folder / f"a.ndjson{suffix}").write_bytes(bomb(suffix))
    (folder / "b.ndjson").write_bytes(PATIENT)
    assert (folder / f"a.ndjson{suffix}").stat().st_size < MIB
    said, memory = import_in_a_process(workspace, folder)
    assert said.startswith("3 ")
    assert f"file 1 of 2 (.ndjson{suffix}): the compressed data unpacks to more than 1000 times" in said
    assert memory < 300
    (run,) = list_runs(workspace.landing)
    assert run.resources == {"Patient": 1}


@pytest.mark.parametrize("opening", [b"[", b'{"resourceType":"Bundle","entry":['], ids=["array", "bundle"])
def test_a_value_of_countless_empty_parts_is_not_cut_up(
    workspace: Workspace, folder: Path, opening: bytes
) -> None:
    """60 MiB would become 20 million objects and gigabytes; as one line that is no resource they stay."""
    closing = b"{}]" if opening == b"[" else b"{}]}"
    (folder / "a.ndjson").write_bytes(opening + b"{}," * (20 * MIB) + closing + b"\n" + PATIENT)
    said, memory = import_in_a_process(workspace, folder)
    assert said.startswith("3 ")
    assert "file 1 of 1 (.ndjson), line 1: no FHIR resource" in said
    assert memory < 700
    (run,) = list_runs(workspace.landing)
    assert run.resources == {"Patient": 1, UNREADABLE: 1}


def long_line(path: Path, length: int) -> None:
    with path.open("wb") as f:
        f.write(PATIENT + b"\n")
        f.seek(length, io.SEEK_CUR)  # a hole: no disk is used
        f.write(b"\n" + OBSERVATION + b"\n")


def test_a_line_too_long_to_hold_is_counted_and_the_lines_around_it_land(
    workspace: Workspace, folder: Path
) -> None:
    long_line(folder / "x.ndjson", 257 * MIB)
    error = partly(workspace, folder)
    assert "file 1 of 1 (.ndjson), line 2: it is longer than 256 MiB and was not kept" in str(error)
    result = error.result
    assert (result.resources, result.too_long, result.unreadable) == ({"Observation": 1, "Patient": 1}, 1, 0)
    assert result.run.resources == result.resources


def test_a_line_too_long_to_hold_is_not_held(workspace: Workspace, folder: Path) -> None:
    long_line(folder / "x.ndjson", 1200 * MIB)
    said, memory = import_in_a_process(workspace, folder)
    assert said.startswith("3 ")
    assert memory < 600
    (run,) = list_runs(workspace.landing)
    assert run.resources == {"Observation": 1, "Patient": 1}


def test_a_document_too_long_to_hold_is_told(workspace: Workspace, folder: Path) -> None:
    line = b'  "x": "' + b"y" * MIB + b'",\n'
    with (folder / "x.json").open("wb") as f:
        f.write(b"{\n")
        f.writelines(line for _ in range(257))
    (folder / "y.json").write_bytes(PATIENT)
    error = partly(workspace, folder)
    assert "file 1 of 2 (.json): it is longer than 256 MiB and was not kept" in str(error)
    assert error.result.run.resources == {"Patient": 1}


def test_a_long_one_line_bundle_is_cut_in_time_that_grows_with_its_length(
    workspace: Workspace, folder: Path
) -> None:
    """Joining what was read so far with every read took 85 s for 100 MB."""
    entry = json.dumps({"resource": {"resourceType": "Observation", "note": [{"text": "x" * 900}]}}).encode()
    count = 100 * 1000 * 1000 // len(entry)
    bundle = b'{"resourceType":"Bundle","entry":[' + b",".join([entry] * count) + b"]}"
    (folder / "x.json").write_bytes(bundle)
    started = time.monotonic()
    result = import_folder(workspace, folder, "a")
    assert result.resources == {"Observation": count}
    assert time.monotonic() - started < 25


def test_bundles_within_bundles_are_opened_up_to_a_depth(workspace: Workspace, folder: Path) -> None:
    def wrapped(times: int) -> bytes:
        inner = PATIENT
        for _ in range(times):
            inner = b'{"resourceType":"Bundle","entry":[{"resource":' + inner + b"}]}"
        return inner

    (folder / "x.ndjson").write_bytes(b"\n".join([wrapped(1), wrapped(10), wrapped(11), wrapped(500)]))
    error = partly(workspace, folder)
    assert error.result.resources == {"Patient": 2}
    assert error.result.unreadable == 2


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_padding_of_tapes_between_and_after_members_is_no_damage(
    workspace: Workspace, folder: Path, suffix: str
) -> None:
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    padding = bytes(10_240)
    packed = pack(PATIENT + b"\n") + padding + pack(OBSERVATION) + padding
    (folder / f"x.ndjson{suffix}").write_bytes(packed)
    assert import_folder(workspace, folder, "a").resources == {"Observation": 1, "Patient": 1}


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_packed_file_of_many_pieces_lands_whole(workspace: Workspace, folder: Path, suffix: str) -> None:
    """Lines of all lengths around the sizes at which the file is read."""
    rng = random.Random(7)
    lines = [
        b'{"resourceType":"Basic","id":"%d","x":"%s"}'
        % (i, b"%x" % rng.getrandbits(4 * rng.randrange(1, 90_000)))
        for i in range(60)
    ]
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    (folder / f"x.ndjson{suffix}").write_bytes(pack(b"\xef\xbb\xbf" + b"\n".join(lines)))
    assert list(import_folder(workspace, folder, "a").run.open("Basic")) == lines


def test_a_folder_whose_only_file_is_damaged_says_how(workspace: Workspace, folder: Path) -> None:
    packed = gzip.compress(PATIENT * 1000)
    (folder / "x.ndjson.gz").write_bytes(packed[:10] + b"\xff" * 20 + packed[30:])
    with pytest.raises(UsageError, match=r"file 1 of 1 \(.ndjson.gz\): the compressed data is damaged"):
        import_folder(workspace, folder, "a")
    assert list_runs(workspace.landing) == []
    assert "a" not in (workspace.root / "rwe.yaml").read_text().partition("sites:")[2].partition("#")[0]


def test_twenty_bad_lines_do_not_hide_the_good_ones_after_them(workspace: Workspace, folder: Path) -> None:
    (folder / "x.ndjson").write_bytes(b"\n".join([b"{nope"] * 30 + [PATIENT]))
    error = partly(workspace, folder)
    assert (error.result.resources, error.result.unreadable) == ({"Patient": 1}, 30)
    assert "line 1: no FHIR resource" in str(error)
