# Writes the chart of the ways as SVG: for each a bar for its time against one
# UPDATE (derived: against UPDATE … FROM) and one for the growth of the table.
# The input is that of ways.awk.

BEGIN { FS = "\t"; bar = 16; step = 26; top = 56; label = 270; width = 230; gap = 90 }

$2 != "" && $1 != "metadata_small" {
	n++
	way[n] = $1; ms[$1] = $2; growth[n] = $4; done[n] = $7; name[n] = $8; other[n] = $9
	gsub(/`/, "", name[n]); gsub(/&/, "\\&amp;", name[n]); gsub(/</, "\\&lt;", name[n])
}

function text(x, y, anchor, weight, what)
{
	printf "<text x=\"%d\" y=\"%d\" text-anchor=\"%s\" font-weight=\"%s\">%s</text>\n", x, y, anchor, weight, what
}

# A bar that would be longer than its column ends in an open end
function draw(x, y, value, longest, colour, what,    length_)
{
	length_ = (value > longest ? longest : value < 0 ? 0 : value) / longest * width
	printf "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", x, y, length_ < 1 ? 1 : length_, bar, colour
	if (value > longest)
		printf "<path d=\"M%d %d l-6 %d l6 %d\" stroke=\"#fff\" stroke-width=\"3\" fill=\"none\"/>\n", x + width - 12, y, bar / 2, bar / 2
	text(x + length_ + 6, y + 12, "start", "normal", what)
}

END {
	right = label + width + gap
	height = top + n * step + 30
	printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n", right + width + gap, height
	printf "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n"
	text(label, 24, "start", "bold", "time, one UPDATE = 1")
	text(label, 40, "start", "normal", "derived: UPDATE … FROM = 1")
	text(right, 24, "start", "bold", "growth of the table")
	for (i = 1; i <= n; i++) {
		y = top + (i - 1) * step
		ours = name[i] ~ /tenantmig/
		colour = ours ? "#2166ac" : "#9e9e9e"
		text(label - 10, y + 12, "end", ours ? "bold" : "normal", name[i])
		if (other[i] in ms) {
			time = ms[way[i]] / ms[other[i]]
			draw(label, y, time, 3, colour, sprintf(done[i] < 1 ? "%.2f *" : "%.2f", time))
		}
		draw(right, y, growth[i], 125, colour, sprintf(done[i] < 1 ? "over %.0f %%" : "%.0f %%", growth[i]))
	}
	text(label - 10, height - 10, "end", "normal", "shorter is better")
	for (i = 1; i <= n; i++)
		if (done[i] < 1) {
			text(label, height - 10, "start", "normal", "* extrapolated from a run that was stopped")
			break
		}
	print "</svg>"
}
