"""What the checks of both runs share: the two arguments, the run's stages, SQL over its tables, and what failed."""

import json
import sys

import duckdb

folder, out = sys.argv[1:]
for stage in json.load(open(f"{out}/run.json"))["stages"]:
    print(f"{stage['name']:<18} {stage['seconds']:7.1f} s, at most {stage['peak_memory_bytes'] / 1e6:6,.0f} MB")
db = duckdb.connect()
rows = lambda sql: db.execute(sql).fetchall()
one = lambda sql: rows(sql)[0]
rows("SET memory_limit = '6GB'")
failed = []


def check(what, good, seen):
    """Prints what was seen, and notes what is not good."""
    print(f"{'ok  ' if good else 'FAIL'} {what}: {seen}")
    if not good:
        failed.append(what)
