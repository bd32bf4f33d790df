"""Files that a bundle lists instead of holding."""

import hashlib

import pytest
import yaml

from monai_ext.base.errors import InputError
from monai_ext.distribution.large_files import LISTING, LargeFile, fetch, listing, read_listing

CONTENT = b"weights" * 99
GOOD = {
    "path": "models/model.pt",
    "url": "http://127.0.0.1:9/model.pt",
    "hash_val": hashlib.sha256(CONTENT).hexdigest(),
    "hash_type": "sha256",
}


def test_what_is_written_is_read(tmp_path):
    entries = [LargeFile(**GOOD), LargeFile(**{**GOOD, "path": "models/other.pt"})]
    (tmp_path / LISTING).write_bytes(listing(entries))
    assert read_listing(tmp_path) == {entry.path: entry for entry in entries}


def test_the_zoos_own_style_is_read(tmp_path):
    (tmp_path / LISTING).write_text(yaml.safe_dump({"large_files": [GOOD]}))
    assert read_listing(tmp_path) == {GOOD["path"]: LargeFile(**GOOD)}


def test_no_list(tmp_path):
    assert read_listing(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("large_files: [", "expected a list large_files", id="no YAML"),
        pytest.param("large_files:", "expected a list large_files", id="no list"),
        pytest.param("files: []", "expected a list large_files", id="another key"),
        pytest.param({k: v for k, v in GOOD.items() if k != "hash_val"}, "hash_val", id="no checksum"),
        pytest.param({**GOOD, "hash_val": ""}, "expected text for each", id="empty checksum"),
        pytest.param({**GOOD, "hash_val": 7}, "expected text for each", id="checksum a number"),
        pytest.param({**GOOD, "fuzzy": True}, "fuzzy", id="unknown entry"),
        pytest.param({**GOOD, "hash_type": "crc"}, "expected a hash_type among md5, sha1", id="unknown checksum"),
        pytest.param({**GOOD, "path": "../model.pt"}, "expected paths in the bundle", id="path leads out"),
        pytest.param({**GOOD, "path": "/model.pt"}, "expected paths in the bundle", id="absolute path"),
    ],
)
def test_wrong_lists_are_refused_in_one_line(content, expected, tmp_path):
    text = content if isinstance(content, str) else yaml.safe_dump({"large_files": [content]})
    (tmp_path / LISTING).write_text(text)
    with pytest.raises(InputError) as caught:
        read_listing(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / LISTING}: expected ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_downloaded(tmp_path, shelf):
    folder, address = shelf
    (folder / "m.pt").write_bytes(CONTENT)
    fetch(tmp_path / "b", LargeFile(**{**GOOD, "url": f"{address}/m.pt"}))
    assert (tmp_path / "b/models/model.pt").read_bytes() == CONTENT


def test_a_download_with_another_checksum_is_refused(tmp_path, shelf):
    folder, address = shelf
    (folder / "m.pt").write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match=f"expected sha256 {GOOD['hash_val']} at {address}/m.pt"):
        fetch(tmp_path / "b", LargeFile(**{**GOOD, "url": f"{address}/m.pt"}))
    assert not (tmp_path / "b/models/model.pt").exists()


def test_what_cannot_be_had_is_one_line(tmp_path, shelf):
    with pytest.raises(InputError, match="404"):
        fetch(tmp_path / "b", LargeFile(**{**GOOD, "url": f"{shelf[1]}/nothing.pt"}))


def test_a_file_that_is_there_is_compared(tmp_path):
    path = tmp_path / "models/model.pt"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    fetch(tmp_path, LargeFile(**GOOD))  # nothing serves its address
    path.write_bytes(b"others")
    with pytest.raises(InputError, match=f"found {hashlib.sha256(b'others').hexdigest()}"):
        fetch(tmp_path, LargeFile(**GOOD))
