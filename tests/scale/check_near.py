"""Holds a finished run against what was planted: check_near.py FOLDER OUT. Needs duckdb."""

import sys

from planted import check, failed, folder, one, out, rows

rows(f"CREATE TABLE planted AS SELECT * FROM read_csv('{folder}/planted.csv')")
# The generator's number of a document is its own key of the record.
rows(f"""CREATE TABLE documents AS SELECT ordinal, CAST(split_part(identifiers[1], ':', 2) AS BIGINT) AS document
           FROM '{out}/work/documents/*.parquet' WHERE split_part(identifiers[1], ':', 2) IN (SELECT document::VARCHAR FROM planted)""")
rows("CREATE TABLE known AS SELECT * FROM planted JOIN documents USING (document)")
rows(f"CREATE TABLE pairs AS SELECT * FROM '{out}/work/pairs/*.parquet'")
rows(f"CREATE TABLE clusters AS SELECT * FROM '{out}/work/clusters/*.parquet'")
total = one(f"SELECT count(*) FROM '{out}/work/documents/*.parquet'")[0]
print(f"{total:,} documents, {one('SELECT count(*) FROM pairs')[0]:,} candidate pairs")
# Documents of 100 shingles of which the last k words differ share 100 - k of 100 + k.
rows("""CREATE TABLE truth AS SELECT least(a.ordinal, b.ordinal) l, greatest(a.ordinal, b.ordinal) r, a.changed k FROM known a JOIN known b
                 ON a.kind = 'pair' AND b.kind = 'pair' AND a."group" = b."group" AND a.document < b.document""")
for k, planted, found, odd in rows("""SELECT k, count(*), count(jaccard), count(*) FILTER (abs(jaccard - (100 - k) / (100.0 + k)) > 1e-12)
                                        FROM truth LEFT JOIN pairs ON l = "left" AND r = "right" GROUP BY k ORDER BY k"""):
    jaccard = (100 - k) / (100 + k)
    predicted = 1 - (1 - jaccard**7) ** 24
    margin = 4 * (predicted * (1 - predicted) * planted) ** 0.5 + 1
    # The sketch scatters less than independent hashes, for which the prediction holds: it may find more.
    good = found >= predicted * planted - margin and odd == 0
    check(f"pairs at Jaccard {jaccard:.4f}", good, f"{planted:,} planted, {found:,} found, predicted {predicted * planted:,.1f}; wrong similarity {odd}")
joined = one("""SELECT count(*), count(*) FILTER (a.keeper = b.keeper) FROM truth JOIN clusters a ON l = a.ordinal JOIN clusters b ON r = b.ordinal
                WHERE (100 - k) / (100.0 + k) >= 0.85""")
wanted = one("SELECT count(*) FROM truth WHERE (100 - k) / (100.0 + k) >= 0.85")[0]
check("pairs at the threshold are joined", joined[1] >= 0.9995 * wanted, f"{joined[1]:,} of {wanted:,}")
hub = one("""SELECT count(*), count(DISTINCT keeper), max(size) FROM known JOIN clusters USING (ordinal)
             JOIN (SELECT keeper, count(*) size FROM clusters GROUP BY keeper) USING (keeper) WHERE kind = 'hub'""")
planted = one("SELECT count(*) FROM known WHERE kind = 'hub'")[0]
check("the cluster around the hub is one", hub == (planted, 1, planted), f"{hub[0]:,} members of {planted:,} in {hub[1]} cluster of {hub[2]:,}")
copies = one("""SELECT count(*), count(*) FILTER (reason = 'exact-copy') FROM known LEFT JOIN clusters USING (ordinal) WHERE kind = 'copy'""")
check("exact copies", copies[0] == copies[1], f"{copies[1]:,} of {copies[0]:,}")
# Strangers may share a cluster only if they are near enough themselves: two ends of 18 random words can be alike, but no two hundred are.
chained = one("SELECT count(*) FROM known JOIN clusters USING (ordinal) WHERE kind = 'boilerplate'")[0]
strangers = one("SELECT count(*) FROM known WHERE kind = 'boilerplate'")[0]
check("strangers that share a boilerplate stay apart", chained <= 2 * strangers // 100_000, f"{chained} of {strangers:,} in a cluster")
wrong = one(f"""SELECT count(*) FROM clusters c LEFT JOIN known a ON c.ordinal = a.ordinal LEFT JOIN known b ON c.keeper = b.ordinal
                WHERE a."group" IS NULL OR a."group" <> b."group" """)[0]
check("nobody else is in a cluster", wrong <= 2, f"{wrong} documents with a keeper from elsewhere")
sys.exit(1 if failed else 0)
