"""What a table of further values may look like, and what is said of one that does not."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.exchange.table import REAL, WHOLE, Column, Table, read_table
from shards.format.errors import MissingDataError, ShardError


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(folder: Path, text: str | bytes, name: str = "table.csv") -> Table:
    return read_table(write(folder, text, name))


def test_columns_are_whole_numbers_other_numbers_or_text(tmp_path: Path) -> None:
    table = read(tmp_path, 'key,views,score,caption\na,3,0.5,"a cat, asleep"\nb,-4,2,\nc,,1e-3,"said ""no"""\n')
    assert table.columns == (Column("views", WHOLE), Column("score", REAL), Column("caption", None))
    assert table.rows == {
        "a": {"views": 3, "score": 0.5, "caption": "a cat, asleep"},
        "b": {"views": -4, "score": 2.0, "caption": ""},
        "c": {"score": float(np.float32(1e-3)), "caption": 'said "no"'},
    }


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("\ufeffkey,n\r\na,1\r\n", "table.csv"),
        ('"key","n"\n"a","1"\n\n', "table.csv"),
        ("n,key\n1,a", "table.csv"),
        ("video_id\tn\na\t1\n", "table.TSV"),
        ("n,id\n1,a\n", "table.csv"),
    ],
)
def test_byte_order_marks_quotes_line_ends_and_tabs_are_understood(tmp_path: Path, text: str, name: str) -> None:
    table = read(tmp_path, text, name)
    assert (table.columns, dict(table.rows)) == ((Column("n", WHOLE),), {"a": {"n": 1}})


def test_the_key_names_a_sample_before_the_videos_id_does(tmp_path: Path) -> None:
    table = read(tmp_path, "id,video_id,key\n1,2,3\n")
    assert list(table.rows) == ["3"]
    assert [column.name for column in table.columns] == ["id", "video_id"]


def test_text_may_hold_line_breaks_and_any_script(tmp_path: Path) -> None:
    assert read(tmp_path, 'key,t\na,"zwei\nZeilen, 猫"\n').rows["a"] == {"t": "zwei\nZeilen, 猫"}


@pytest.mark.parametrize("cell", ["007", "1_000", "0x10", "1 2", "½", "٣", " 1", "--1", "1e"])
def test_what_only_resembles_a_number_is_text(tmp_path: Path, cell: str) -> None:
    assert read(tmp_path, f"key,t\na,1\nb,{cell}\n").columns == (Column("t", None),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("\ufeff", "it is empty"),
        ("\n\n", "it is empty"),
        ("key,n\n", "a header and no rows"),
        ("key\na\n", "the column 'key' alone"),
        ("name,n\na,1\n", "its columns are 'name', 'n'"),
        ("key,n,n\na,1,2\n", "two columns have the name 'n'"),
        ("key,,n\na,1,2\n", "field name '' is not allowed"),
        ("key,a/b\na,1\n", "field name 'a/b' is not allowed"),
        ("key,model.pkl\na,1\n", "pickled data"),
        ("key,n\na,1\na,2\n", "line 3 names the sample 'a', as line 2 does"),
        ("key,n\n,1\n", "line 2 names no sample"),
        ("key,n\na,1\nb,1,2\n", "line 3 has 3 cells, the header has 2"),
        ("key,n\na\n", "line 2 has 1 cells, the header has 2"),
        ('key,n\na,"1\n', "line 2 is not CSV: unexpected end of data"),
        ('key,n\na,"1"2\n', "line 2 is not CSV"),
        ("key,n\na,1\nb,nan\n", "line 3, column 'n': 'nan' is no whole number of 64 bits"),
        ("key,n\na,1.5\nb,NaN\n", "line 3, column 'n': 'NaN' is no finite number of 32 bits"),
        ("key,n\na,-inf\n", "line 2, column 'n': '-inf' is no"),
        ("key,n\na,9223372036854775808\n", "'9223372036854775808' is no whole number of 64 bits"),
        (f"key,n\na,{'9' * 50_000}\n", "is no whole number of 64 bits"),
        ("key,n\na,1.5\nb,1e39\n", "line 3, column 'n': '1e39' is no finite number of 32 bits"),
        (f"key,n\na,{'x' * 200_000}\n", "line 2 is not CSV: field larger than field limit"),
        (b"key,t\na,\xff\n", "line 2 is not UTF-8"),
        ("key,t\na,1\n".encode("utf-16"), "line 1 is not UTF-8"),
    ],
)
def test_what_is_no_table_is_one_clear_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ShardError) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_table_that_is_not_there_is_said_with_what_one_is(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"no table at .*a header line with a column 'key'"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ShardError, match="is not a file"):
        read_table(tmp_path)


def text_cells() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), max_size=8).map(
        lambda t: f"t{t}"
    )


@given(
    st.dictionaries(
        text_cells(),
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.floats(width=32, allow_nan=False, allow_infinity=False),
            text_cells(),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_csv_writes_comes_back_whole(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[str, tuple[int, float, str]]
) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["key", "whole", "real", "text"])
    writer.writerows([key, whole, f"{real:.9e}", text] for key, (whole, real, text) in rows.items())
    table = read(tmp_path_factory.mktemp("table"), file.getvalue())
    assert list(table.rows) == list(rows)
    for key, (whole, real, text) in rows.items():
        found = table.rows[key]
        assert (found["whole"], found["text"]) == (whole, text)
        assert isinstance(found["real"], float)
        assert math.isclose(found["real"], real, rel_tol=0, abs_tol=0)
