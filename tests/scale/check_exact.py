"""Holds a finished run against what was planted: check_exact.py FOLDER OUT. Needs duckdb."""

import sys

from planted import check, failed, folder, one, out, rows

rows(f"""CREATE TABLE planted AS SELECT "repeat", document, "start", "start" + length AS "end", length
         FROM read_csv('{folder}/planted.csv', types = {{'repeat': 'VARCHAR'}})""")
# The generator's number of a document is its own key of the record.
rows(f"""CREATE TABLE documents AS SELECT ordinal, num_bytes, CAST(split_part(identifiers[1], ':', 2) AS BIGINT) AS document
         FROM '{out}/work/documents/*.parquet'""")
rows(f"CREATE TABLE spans AS SELECT d.document, s.pass, s.start, s.\"end\" FROM '{out}/work/spans/*.parquet' s JOIN documents d USING (ordinal)")
total, num_bytes = one("SELECT count(*), sum(num_bytes) FROM documents")
print(f"{total:,} documents, {num_bytes:,} bytes of text, {one('SELECT count(*) FROM spans')[0]:,} spans")
# The number before the paragraph may end like that of the document whose paragraph is kept.
licence = one("""SELECT count(*) FROM planted p JOIN spans s USING (document)
                 WHERE p."repeat" = 'licence' AND s.pass = 0 AND s."end" = p."end" AND s."start" BETWEEN p."start" - 18 AND p."start" """)[0]
check("the paragraph of every document is kept once", licence == total - 1, f"removed from {licence:,} of {total:,}")
wanted, exact, other = one("""
    WITH occurrences AS (
      SELECT p.*, (SELECT count(*) FROM spans s WHERE s.document = p.document AND s.pass = CASE WHEN p.length >= 400 THEN 0 ELSE 1 END
                     AND s."start" = p."start" AND s."end" = p."end") AS exact,
             (SELECT count(*) FROM spans s WHERE s.document = p.document AND s."start" < p."end" AND s."end" > p."start") AS touching
      FROM planted p WHERE "repeat" <> 'licence'),
    repeats AS (SELECT "repeat", max(length) AS length, sum(exact) AS exact, sum(touching) AS touching FROM occurrences GROUP BY "repeat")
    SELECT count(*) FILTER (length >= 100), count(*) FILTER (length >= 100 AND exact = 1 AND touching = 1),
           count(*) FILTER (length < 100 AND touching > 0) FROM repeats""")
check("repeats of 100 bytes or more are removed once, to the byte", exact == wanted, f"{exact:,} of {wanted:,}")
check("shorter ones are kept", other == 0, f"{other} touched")
spans = one("SELECT count(*) FROM spans")[0]
check("nothing else is removed", spans == licence + exact, f"{spans - licence - exact} more spans")
large = one("""SELECT max("end" - "start") FROM spans""")[0]
check("the largest repeat is removed in one", large == 1 << 20, f"{large:,} bytes")
sys.exit(1 if failed else 0)
