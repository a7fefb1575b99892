# The comparison that scripts/bench-ab prints, from its rounds.tsv: round, build, workload, figure, value.
# -v speed_min=N: an interval of speed wholly under this is slower; -v cpu_max=N: so is a median ratio of CPU time above it;
# -v others_max=N: what percentage of the machine's CPU time other processes may have. Ends with 1 if anything is slower.
BEGIN { FS = "\t" }

FNR == 1 { next }

$4 == "others_percent" { others[++loads] = $5 > 0 ? $5 : 0; next }

{
  row = $3 FS $4
  if (!(row in seen)) { seen[row] = 1; row_of[++rows] = row }
  value[row, $2, $1] = $5
  if ($1 > rounds) rounds = $1
}

# sort: v[1..n] in place
function sort(v, n,    i, j, x) {
  for (i = 2; i <= n; i++) {
    x = v[i]
    for (j = i - 1; j > 0 && v[j] > x; j--) v[j + 1] = v[j]
    v[j + 1] = x
  }
}

# median: of v[1..n], sorted
function median(v, n) { return (v[int((n + 1) / 2)] + v[int((n + 2) / 2)]) / 2 }

# choose_interval: the largest edge for which the interval from the edge-th ratio to the edge-th last holds the median with
# 95 %, and with how much it does. The median is outside with twice the chance that a fair coin falls head fewer than edge
# times of all rounds.
function choose_interval(    k, chance, below) {
  chance = 0.5 ^ rounds
  below = chance
  edge = 1
  cover = 1 - 2 * below
  for (k = 1; k < rounds / 2; k++) {
    chance *= (rounds - k + 1) / k
    below += chance
    if (2 * below > 0.05) break
    edge = k + 1
    cover = 1 - 2 * below
  }
}

function show(x) { return sprintf(x < 10 ? "%.3f" : x < 1000 ? "%.1f" : "%.0f", x) }

END {
  if (!rows) { print "no rounds" >"/dev/stderr"; exit 2 }
  choose_interval()
  printf "%d rounds; the interval goes from ratio %d to ratio %d in order and holds the true median with %.1f %%\n",
    rounds, edge, rounds + 1 - edge, 100 * cover
  if (cover < 0.95) print "too few rounds to tell a slower build from chance: 6 are the fewest"
  printf "%-24s %-15s %10s %10s %8s   %-16s %-24s %s\n", "workload", "figure", "old", "new", "ratio", "interval", "of", "verdict"
  for (r = 1; r <= rows; r++) compare(row_of[r])
  sort(others, loads)
  printf "other processes had %.1f %% of the CPU time at the median of the loads, %.1f %% at most\n", median(others, loads), others[loads]
  if (median(others, loads) > others_max) print "that is too much to rely on the comparison"
  if (slower == "") {
    printf "not slower: no interval of speed wholly under %s, no median ratio of CPU time above %s\n", speed_min, cpu_max
    exit 0
  }
  print "slower: " slower
  exit 1
}

function compare(row,    n, i, old, new, ratio, middle, part, of, verdict) {
  split(row, part, FS)
  for (i = 1; i <= rounds; i++) {
    old[i] = value[row, "old", i]
    new[i] = value[row, "new", i]
    if (!(old[i] > 0 && new[i] > 0)) { print "round " i " has no " part[2] " of " part[1] >"/dev/stderr"; exit 2 }
    ratio[i] = part[2] ~ /_per_s$|^cpu_us$/ ? new[i] / old[i] : old[i] / new[i]
  }
  sort(old, rounds)
  sort(new, rounds)
  sort(ratio, rounds)
  middle = median(ratio, rounds)
  of = part[2] ~ /_per_s$/ ? "new/old, more is better" : part[2] == "cpu_us" ? "new/old, less is better" : "old/new, more is better"
  if (part[2] == "cpu_us" ? middle > cpu_max : ratio[rounds + 1 - edge] < speed_min) {
    verdict = "slower"
    slower = slower (slower == "" ? "" : "; ") part[1] " " part[2]
  }
  printf "%-24s %-15s %10s %10s %8.3f   %-16s %-24s %s\n", part[1], part[2], show(median(old, rounds)), show(median(new, rounds)),
    middle, sprintf("%.3f to %.3f", ratio[edge], ratio[rounds + 1 - edge]), of, verdict
}
