# Writes the Markdown table of the ways. A line of the input: way, milliseconds,
# bytes of WAL, growth of the table and of its indexes in %, share of HOT updates
# in %, share of the rows that was done, label, the way that it is compared with,
# number of rows, and why there are no figures; separated by tabs.

BEGIN { FS = "\t" }

{ order[NR] = $1; line[$1] = $0; if ($2 != "") ms[$1] = $2; wal[$1] = $3 }

function against(values, way, other, star)
{
	return (other in values) && values[other] > 0 ? sprintf("%.2f%s", values[way] / values[other], star) : ""
}

function seconds(value) { return sprintf(value < 10000 ? "%.3f s" : "%.1f s", value / 1000) }

END {
	print "| way | time | rows a second | time against `UPDATE` | against the rewrite | WAL | against `UPDATE` | growth of the table | of the indexes | HOT updates |"
	print "|---|---|---|---|---|---|---|---|---|---|"
	for (i = 1; i <= NR; i++) {
		split(line[order[i]], f, "\t")
		if (f[2] == "") {
			printf "| %s | not available: %s | | | | | | | | |\n", f[8], f[11]
			continue
		}
		star = f[7] < 1 ? " \\*" : ""
		over = f[7] < 1 ? "> " : ""
		printf "| %s | %s%s | %d%s | %s | %s | %d MB%s | %s | %s%+.0f %% | %s%+.0f %% | %s |\n",
			f[8], seconds(f[2]), star, f[10] * 1000 / f[2], star,
			against(ms, f[1], f[9], star), f[1] == "metadata_small" ? "" : against(ms, f[1], "rewrite", star),
			f[3] / 1048576, star, against(wal, f[1], f[9], star),
			over, f[4], over, f[5], f[6] == "" ? "" : sprintf("%.0f %%", f[6])
	}
}
