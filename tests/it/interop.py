"""Reads a run's folder with other tools and checks that they agree with each other and with run.json."""
import json, pathlib, sys

import duckdb, numpy, pandas, polars, pyarrow as pa, pyarrow.ipc, pyarrow.parquet as pq

out = pathlib.Path(sys.argv[1])
run = json.loads((out / "run.json").read_text())
stages = {stage["name"]: stage for stage in run["stages"]}
wanted = stages["pack"]["counts"]["records_in"]

for table in ["corpus", "ledger"]:
    arrow = pq.read_table(out / table)
    pattern = str(out / table / "*.parquet")
    duck = duckdb.sql(f"SELECT count(*), count(DISTINCT doc_id) FROM '{pattern}'").fetchall()[0]
    frame = polars.read_parquet(pattern)
    panda = pandas.read_parquet(out / table)
    assert arrow.num_rows == duck[0] == frame.height == len(panda), table
    assert arrow["doc_id"].to_pylist() == frame["doc_id"].to_list() == panda["doc_id"].tolist(), table
    if table == "corpus":
        assert arrow.num_rows == wanted, (arrow.num_rows, wanted)
        assert duck[1] == wanted, "ids are unique"
        first = arrow.slice(0, 1).to_pylist()[0]
        assert frame.row(0, named=True)["text"] == first["text"] == panda.iloc[0]["text"]
        assert json.loads(first["metadata"]) is not None and isinstance(first["identifiers"], list)
        for row in arrow.to_pylist():
            raw = row["text"].encode()
            assert len(raw) == row["num_bytes"], row["doc_id"]
            for section in row["sections"]:
                assert 0 <= section["start"] <= section["end"] <= len(raw), row["doc_id"]
                raw[section["start"]:section["end"]].decode()
        titles = duckdb.sql(f"SELECT count(*) FROM '{pattern}' WHERE len(sections) > 0 AND len(identifiers) > 0").fetchall()[0]
        assert titles[0] > 0

tokens = 0
for sidecar in sorted((out / "tokens").glob("*.meta.arrow")):
    with pa.memory_map(str(sidecar)) as source:
        table = pa.ipc.open_file(source).read_all()
    width = numpy.uint16 if (out / "tokens").joinpath(sidecar.name.replace(".meta.arrow", ".bin")).stat().st_size else numpy.uint16
    ids = numpy.memmap(str(sidecar).replace(".meta.arrow", ".bin"), dtype=width, mode="r")
    assert len(table) >= 1 and ids.max() < 65536
    tokens += len(ids)
assert tokens >= stages["pack"]["facts"]["tokens"], (tokens, stages["pack"]["facts"])
print("all readers agree")
